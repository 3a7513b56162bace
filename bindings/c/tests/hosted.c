/* A program that runs with nothing set up: KSTATE_EMBED=1, or asked for by a call if it is given a word. It says "ready" once it
 * has a state, goes on when it is told to, and then has to find everything as it was: whoever has died meanwhile. */
#include "check.h"

static void await_word(void)
{
    char line[64];
    CHECK(fgets(line, sizeof line, stdin) != NULL);
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1)
        CHECK_IS(kstate_start_daemon(NULL), 0);
    kstate_state_p state = fresh_state();
    CHECK_IS(kstate_publish(state, "before", 6), 0);
    puts("ready");
    fflush(stdout);
    await_word();
    /* Mapped: no daemon is needed. */
    CHECK_IS(newest_byte(state), 'b');
    /* These ask one. */
    CHECK_IS(kstate_set_size(state, (size_t)sysconf(_SC_PAGESIZE)), 0);
    kstate_state_p other = another(state, KSTATE_WRITE);
    CHECK_IS(newest_byte(other), 'b');
    CHECK_IS(kstate_wait(other, kstate_get_generation(other), 1000000, NULL), -ETIMEDOUT);
    CHECK_IS(kstate_publish(other, "after", 5), 0);
    CHECK_IS(newest_byte(state), 'a');
    kstate_state_p fresh = fresh_state();
    commit_byte(fresh, 1);
    puts("done");
    fflush(stdout);
    await_word();
    kstate_free_state(&fresh);
    kstate_free_state(&other);
    kstate_free_state(&state);
    return 0;
}

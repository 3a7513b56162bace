/* What a program written for the first kstate library relies upon: each of its functions, and each answer. */
#include "check.h"

static void handles_have_ids_and_names(void)
{
    kstate_state_p first = kstate_new_state(), second = kstate_new_state();
    CHECK(first != NULL && second != NULL && first != second);
    CHECK(kstate_get_state_id(first) >= 1);
    CHECK(kstate_get_state_id(second) != kstate_get_state_id(first));
    CHECK(!kstate_state_is_subscribed(first));
    CHECK(kstate_get_state_name(first) == NULL);
    CHECK_IS(kstate_get_state_permissions(first), 0);
    CHECK(kstate_get_state_ptr(first) == NULL);

    char *name = fresh_name();
    uint32_t id = kstate_get_state_id(first);
    CHECK_IS(kstate_subscribe_state(first, name, KSTATE_READ | KSTATE_WRITE), 0);
    CHECK(kstate_state_is_subscribed(first));
    CHECK(strcmp(kstate_get_state_name(first), name) == 0);
    CHECK_IS(kstate_get_state_permissions(first), KSTATE_READ | KSTATE_WRITE);
    CHECK_IS(kstate_get_state_id(first), id);
    CHECK(kstate_get_state_ptr(first) != NULL);

    /* Once. */
    CHECK_IS(kstate_subscribe_state(first, name, KSTATE_READ), -EINVAL);
    CHECK(kstate_state_is_subscribed(first));

    kstate_unsubscribe_state(first);
    kstate_unsubscribe_state(first);
    CHECK(!kstate_state_is_subscribed(first));
    CHECK(kstate_get_state_name(first) == NULL && kstate_get_state_ptr(first) == NULL);
    CHECK_IS(kstate_get_state_permissions(first), 0);

    /* The handle serves again, and keeps its id. Writing implies reading. */
    CHECK_IS(kstate_subscribe_state(first, name, KSTATE_WRITE), 0);
    CHECK_IS(kstate_get_state_id(first), id);
    CHECK_IS(kstate_get_state_permissions(first), KSTATE_READ | KSTATE_WRITE);

    kstate_free_state(&first);
    kstate_free_state(&second);
    CHECK(first == NULL && second == NULL);
    kstate_free_state(&first);
    kstate_free_state(NULL);
    free(name);
}

static void names_are_unique(void)
{
    char *first = kstate_get_unique_name("Fred"), *second = kstate_get_unique_name("Fred");
    CHECK(first != NULL && second != NULL && strcmp(first, second) != 0);
    unsigned long long time;
    int process, number, length = 0;
    CHECK_IS(sscanf(first, "Fred.%llu.%d.%d%n", &time, &process, &number, &length), 3);
    CHECK_IS(first[length], 0);
    CHECK_IS(process, getpid());
    CHECK(time > 1500000000ull * 1000000);
    kstate_state_p state = kstate_subscribe(first, KSTATE_WRITE);
    CHECK(state != NULL);
    kstate_free_state(&state);
    CHECK(kstate_get_unique_name(NULL) == NULL);
    free(first);
    free(second);
}

static void what_is_wrong_with_a_subscription_is_said(void)
{
    kstate_state_p state = kstate_new_state();
    char *name = fresh_name();
    CHECK_IS(kstate_subscribe_state(NULL, name, KSTATE_READ), -EINVAL);
    CHECK_IS(kstate_subscribe_state(state, name, 0), -EINVAL);
    CHECK_IS(kstate_subscribe_state(state, name, 4), -EINVAL);
    CHECK_IS(kstate_subscribe_state(state, name, KSTATE_READ | 8), -EINVAL);
    CHECK_IS(kstate_subscribe_state(state, NULL, KSTATE_READ), -EINVAL);
    const char *bad[] = {"", ".a", "a.", "a..b", "a b", "a/b", "@", "a@4hz", "\xff\xfe", "..", "."};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_IS(kstate_subscribe_state(state, bad[i], KSTATE_WRITE), -EINVAL);
        CHECK(!kstate_state_is_subscribed(state));
    }
    char longest[KSTATE_MAX_NAME_LEN + 2];
    memset(longest, 'x', sizeof longest);
    longest[KSTATE_MAX_NAME_LEN + 1] = 0;
    CHECK_IS(kstate_subscribe_state(state, longest, KSTATE_WRITE), -EINVAL);
    longest[KSTATE_MAX_NAME_LEN] = 0;
    /* A dot may stand anywhere within. */
    longest[1] = longest[KSTATE_MAX_NAME_LEN - 2] = longest[100] = '.';
    CHECK_IS(kstate_subscribe_state(state, longest, KSTATE_WRITE), 0);
    kstate_unsubscribe_state(state);

    /* Only reading, by this call alone, makes no state. */
    CHECK_IS(kstate_subscribe_state(state, name, KSTATE_READ), -ENOENT);
    CHECK_IS(kstate_subscribe_state(state, name, KSTATE_WRITE), 0);
    kstate_state_p reader = another(state, KSTATE_READ);
    CHECK_IS(kstate_get_state_permissions(reader), KSTATE_READ);
    kstate_free_state(&reader);
    kstate_free_state(&state);
    free(name);
}

static void transactions_begin_once(void)
{
    kstate_state_p state = fresh_state(), reader = another(state, KSTATE_READ), none = kstate_new_state();
    struct kstate_transaction *transaction = kstate_new_transaction();
    CHECK(transaction != NULL);
    CHECK(kstate_get_transaction_id(transaction) >= 1);
    CHECK(!kstate_transaction_is_active(transaction));
    CHECK(kstate_get_transaction_name(transaction) == NULL);
    CHECK(kstate_get_transaction_ptr(transaction) == NULL);
    CHECK_IS(kstate_get_transaction_permissions(transaction), 0);
    CHECK_IS(kstate_abort_transaction(transaction), -EINVAL);
    CHECK_IS(kstate_commit_transaction(transaction), -EINVAL);

    CHECK_IS(kstate_start_transaction(NULL, state, KSTATE_READ), -EINVAL);
    CHECK_IS(kstate_start_transaction(transaction, NULL, KSTATE_READ), -EINVAL);
    CHECK_IS(kstate_start_transaction(transaction, none, KSTATE_READ), -EINVAL);
    CHECK_IS(kstate_start_transaction(transaction, state, 0), -EINVAL);
    CHECK_IS(kstate_start_transaction(transaction, state, 4), -EINVAL);
    CHECK_IS(kstate_start_transaction(transaction, reader, KSTATE_WRITE), -EINVAL);
    CHECK(!kstate_transaction_is_active(transaction));

    CHECK_IS(kstate_start_transaction(transaction, state, KSTATE_WRITE), 0);
    CHECK(kstate_transaction_is_active(transaction));
    CHECK(strcmp(kstate_get_transaction_name(transaction), kstate_get_state_name(state)) == 0);
    CHECK_IS(kstate_get_transaction_permissions(transaction), KSTATE_READ | KSTATE_WRITE);
    CHECK_IS(kstate_start_transaction(transaction, state, KSTATE_WRITE), -EINVAL);
    CHECK_IS(kstate_abort_transaction(transaction), 0);
    CHECK_IS(kstate_abort_transaction(transaction), -EINVAL);
    CHECK(kstate_get_transaction_ptr(transaction) == NULL);

    kstate_transaction_p other = kstate_new_transaction();
    CHECK(kstate_get_transaction_id(other) != kstate_get_transaction_id(transaction));
    kstate_free_transaction(&other);
    kstate_free_transaction(&transaction);
    kstate_free_transaction(&transaction);
    kstate_free_transaction(NULL);
    kstate_free_state(&none);
    kstate_free_state(&reader);
    kstate_free_state(&state);
}

static void a_commit_shows_at_a_pointer_of_before(void)
{
    kstate_state_p state = fresh_state(), reader = another(state, KSTATE_READ);
    const volatile uint32_t *live = (const volatile uint32_t *)kstate_get_state_ptr(reader);
    /* A state nobody has written is zeros. */
    for (size_t i = 0; i < kstate_get_size(state) / 4; i++)
        CHECK_IS(live[i], 0);
    kstate_transaction_p transaction = kstate_new_transaction();
    for (uint32_t round = 1; round <= 100; round++) {
        CHECK_IS(kstate_start_transaction(transaction, state, KSTATE_READ | KSTATE_WRITE), 0);
        volatile uint32_t *page = (volatile uint32_t *)kstate_get_transaction_ptr(transaction);
        CHECK_IS(page[0], round - 1);
        page[0] = round;
        page[1000] = ~round;
        CHECK_IS(live[0], round - 1);
        CHECK_IS(kstate_commit_transaction(transaction), 0);
        CHECK(!kstate_transaction_is_active(transaction));
        CHECK_IS(live[0], round);
        CHECK_IS(live[1000], ~round);
        CHECK(kstate_get_state_ptr(reader) == (const void *)live);
    }
    /* And not what was aborted. */
    CHECK_IS(kstate_start_transaction(transaction, state, KSTATE_WRITE), 0);
    *(volatile uint32_t *)kstate_get_transaction_ptr(transaction) = 7;
    CHECK_IS(kstate_abort_transaction(transaction), 0);
    CHECK_IS(live[0], 100);
    kstate_free_transaction(&transaction);
    kstate_free_state(&reader);
    kstate_free_state(&state);
}

static void the_second_to_commit_fails(void)
{
    kstate_state_p state = fresh_state();
    kstate_transaction_p first = kstate_new_transaction(), second = kstate_new_transaction();
    CHECK_IS(kstate_start_transaction(first, state, KSTATE_WRITE), 0);
    CHECK_IS(kstate_start_transaction(second, state, KSTATE_WRITE), 0);
    *(volatile uint32_t *)kstate_get_transaction_ptr(first) = 1;
    *(volatile uint32_t *)kstate_get_transaction_ptr(second) = 2;
    CHECK_IS(kstate_commit_transaction(second), 0);
    CHECK_IS(kstate_commit_transaction(first), -EPERM);
    CHECK(!kstate_transaction_is_active(first));
    CHECK_IS(kstate_commit_transaction(first), -EINVAL);
    CHECK_IS(newest_byte(state), 2);

    /* One that wrote nothing conflicts with nobody, whether or not it looked. */
    for (int looks = 0; looks < 2; looks++) {
        CHECK_IS(kstate_start_transaction(first, state, KSTATE_WRITE), 0);
        if (looks)
            CHECK_IS(*(volatile uint32_t *)kstate_get_transaction_ptr(first), 2 + looks);
        commit_byte(state, (unsigned char)(3 + looks));
        CHECK_IS(kstate_commit_transaction(first), 0);
        CHECK_IS(newest_byte(state), 3 + looks);
    }
    kstate_free_transaction(&first);
    kstate_free_transaction(&second);
    kstate_free_state(&state);
}

static void a_transaction_for_reading_has_the_value_of_its_start(void)
{
    kstate_state_p state = fresh_state(), reader = another(state, KSTATE_READ);
    commit_byte(state, 1);
    kstate_transaction_p transaction = kstate_new_transaction();
    for (int i = 0; i < 2; i++) {
        CHECK_IS(kstate_start_transaction(transaction, i ? state : reader, KSTATE_READ), 0);
        CHECK_IS(kstate_get_transaction_permissions(transaction), KSTATE_READ);
        for (unsigned char byte = 2; byte < 40; byte++)
            commit_byte(state, byte);
        CHECK_IS(*(volatile unsigned char *)kstate_get_transaction_ptr(transaction), i ? 1 : 1);
        /* It has nothing to commit, and stays. */
        CHECK_IS(kstate_commit_transaction(transaction), -EPERM);
        CHECK(kstate_transaction_is_active(transaction));
        CHECK_IS(kstate_abort_transaction(transaction), 0);
        commit_byte(state, 1);
    }
    kstate_free_transaction(&transaction);
    kstate_free_state(&reader);
    kstate_free_state(&state);
}

static void a_transaction_outlives_its_state(void)
{
    kstate_state_p state = fresh_state(), other = another(state, KSTATE_READ);
    kstate_transaction_p transaction = kstate_new_transaction();
    CHECK_IS(kstate_start_transaction(transaction, state, KSTATE_WRITE), 0);
    char *name = strdup(kstate_get_state_name(state));
    kstate_free_state(&state);
    CHECK(kstate_transaction_is_active(transaction));
    CHECK(strcmp(kstate_get_transaction_name(transaction), name) == 0);
    *(volatile unsigned char *)kstate_get_transaction_ptr(transaction) = 9;
    CHECK_IS(kstate_commit_transaction(transaction), 0);
    CHECK_IS(newest_byte(other), 9);
    kstate_free_transaction(&transaction);
    kstate_free_state(&other);
    free(name);
}

static void writing_where_one_may_only_read_is_fatal(void)
{
    kstate_state_p state = fresh_state();
    commit_byte(state, 1);
    volatile char *live = (volatile char *)kstate_get_state_ptr(state);
    CHECK_IS(DIES_OF(*live = 2), SIGSEGV);
    CHECK_IS(*live, 1);
    kstate_transaction_p transaction = kstate_new_transaction();
    pid_t child = forked();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        if (kstate_start_transaction(transaction, state, KSTATE_READ) == 0) {
            volatile char *page = (volatile char *)kstate_get_transaction_ptr(transaction);
            if (*page == 1)
                *page = 2;
        }
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    kstate_free_transaction(&transaction);
    kstate_free_state(&state);
}

static void a_page_is_dead_after_the_end(void)
{
    for (int permissions = KSTATE_READ; permissions <= KSTATE_WRITE; permissions++) {
        pid_t child = forked();
        if (child == 0) {
            signal(SIGSEGV, SIG_DFL);
            kstate_state_p state = fresh_state();
            kstate_transaction_p transaction = kstate_new_transaction();
            if (kstate_start_transaction(transaction, state, (uint32_t)permissions) != 0)
                _exit(1);
            volatile char *page = (volatile char *)kstate_get_transaction_ptr(transaction);
            if (*page != 0 || kstate_abort_transaction(transaction) != 0)
                _exit(2);
            _exit(*page ? 3 : 4);
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
}

static void handles_are_printed_for_people(void)
{
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    kstate_state_p state = fresh_state(), none = kstate_new_state();
    kstate_transaction_p transaction = kstate_new_transaction();
    kstate_print_state(stream, "before: ", state, true);
    kstate_print_state(stream, NULL, none, false);
    kstate_print_state(stream, "|", NULL, true);
    CHECK_IS(kstate_start_transaction(transaction, state, KSTATE_WRITE), 0);
    kstate_print_transaction(stream, "on ", transaction, true);
    CHECK_IS(kstate_abort_transaction(transaction), 0);
    kstate_print_transaction(stream, "", transaction, true);
    kstate_print_transaction(stream, NULL, NULL, true);
    kstate_print_state(NULL, "nowhere", state, true);
    fclose(stream);
    CHECK(strncmp(text, "before: State ", 14) == 0);
    CHECK(strstr(text, kstate_get_state_name(state)) != NULL);
    CHECK(strstr(text, "not subscribed|State: none\n") != NULL);
    CHECK(strstr(text, "\non Transaction ") != NULL);
    CHECK(strstr(text, "not active\nTransaction: none\n") != NULL);
    free(text);
    kstate_free_transaction(&transaction);
    kstate_free_state(&none);
    kstate_free_state(&state);
}

int main(void)
{
    handles_have_ids_and_names();
    names_are_unique();
    what_is_wrong_with_a_subscription_is_said();
    transactions_begin_once();
    a_commit_shows_at_a_pointer_of_before();
    the_second_to_commit_fails();
    a_transaction_for_reading_has_the_value_of_its_start();
    a_transaction_outlives_its_state();
    writing_where_one_may_only_read_is_fatal();
    a_page_is_dead_after_the_end();
    handles_are_printed_for_people();
    return 0;
}

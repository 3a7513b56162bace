/* Whatever is passed in is answered: nothing crashes, nothing is changed, and nothing is printed. */
#include "check.h"

#include <pthread.h>

/* Every call with this for a handle of a state, and of a transaction. */
static void is_refused(kstate_state_p state, kstate_transaction_p transaction)
{
    uint64_t number = 0;
    CHECK_IS(kstate_subscribe_state(state, "x", KSTATE_WRITE), -EINVAL);
    kstate_unsubscribe_state(state);
    CHECK(!kstate_state_is_subscribed(state));
    CHECK(kstate_get_state_name(state) == NULL);
    CHECK_IS(kstate_get_state_permissions(state), 0);
    CHECK_IS(kstate_get_state_id(state), 0);
    errno = 0;
    CHECK(kstate_get_state_ptr(state) == NULL);
    CHECK_IS(errno, EINVAL);
    CHECK(kstate_get_ptr_generation(state) == KSTATE_BEING_WRITTEN);
    CHECK_IS(kstate_get_generation(state), 0);
    CHECK_IS(kstate_take_snapshot(state, &number, sizeof number, NULL), -EINVAL);
    CHECK_IS(kstate_publish(state, &number, sizeof number), -EINVAL);
    CHECK_IS(kstate_set_size(state, 8), -EINVAL);
    CHECK_IS(kstate_get_size(state), 0);
    CHECK_IS(kstate_set_persistent(state, "/nowhere"), -EINVAL);
    CHECK_IS(kstate_set_durability(state, 0), -EINVAL);
    CHECK_IS(kstate_sync(state), -EINVAL);
    CHECK_IS(kstate_delete(state), -EINVAL);
    CHECK_IS(kstate_set_min_interval(state, 0), -EINVAL);
    CHECK_IS(kstate_set_trapping(state, KSTATE_TRAP_BY_THREAD), -EINVAL);
    CHECK_IS(kstate_wait(state, 0, 0, &number), -EINVAL);
    CHECK_IS(kstate_interrupt(state, true), -EINVAL);
    CHECK_IS(kstate_get_fd(state), -EINVAL);
    CHECK(kstate_begin(state) == NULL);
    CHECK_IS(kstate_transaction_using_fn(state, NULL, true), -EINVAL);

    CHECK_IS(kstate_start_transaction(transaction, state, KSTATE_READ), -EINVAL);
    CHECK_IS(kstate_add_state(transaction, state, KSTATE_READ), -EINVAL);
    CHECK(kstate_get_transaction_ptr(transaction) == NULL);
    CHECK(kstate_get_member_ptr(transaction, state) == NULL);
    CHECK_IS(kstate_get_length(transaction, NULL), -EINVAL);
    CHECK_IS(kstate_set_length(transaction, NULL, 1), -EINVAL);
    CHECK_IS(kstate_validate_transaction(transaction), -EINVAL);
    CHECK_IS(kstate_abort_transaction(transaction), -EINVAL);
    CHECK_IS(kstate_abort(transaction), -EINVAL);
    CHECK_IS(kstate_commit_transaction(transaction), -EINVAL);
    CHECK_IS(kstate_commit(transaction), -EINVAL);
    CHECK_IS(kstate_commit_durable(transaction), -EINVAL);
    CHECK(!kstate_transaction_is_active(transaction));
    CHECK(kstate_get_transaction_name(transaction) == NULL);
    CHECK_IS(kstate_get_transaction_permissions(transaction), 0);
    CHECK_IS(kstate_get_transaction_id(transaction), 0);
    kstate_print_state(NULL, NULL, state, true);
    kstate_print_transaction(NULL, NULL, transaction, true);
    kstate_state_p state_to_free = state;
    kstate_free_state(&state_to_free);
    CHECK(state_to_free == NULL);
    kstate_transaction_p transaction_to_free = transaction;
    kstate_free_transaction(&transaction_to_free);
    CHECK(transaction_to_free == NULL);
    CHECK(strlen(kstate_last_error()) > 0);
}

static void what_is_no_handle_is_told_from_one(void)
{
    int somewhere = 0;
    static int elsewhere[64];
    uintptr_t numbers[] = {0, 1, 8, 16, 4096, UINTPTR_MAX, UINTPTR_MAX - 7, (uintptr_t)1 << 25, (uintptr_t)1 << 63,
                           (uintptr_t)&somewhere, (uintptr_t)elsewhere, (uintptr_t)&is_refused, 0xdeadbeefdeadbeefu};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        is_refused((kstate_state_p)numbers[i], (kstate_transaction_p)numbers[i]);

    /* A handle of the other kind, and one that differs in a bit. */
    kstate_state_p state = fresh_state();
    kstate_transaction_p transaction = kstate_new_transaction();
    is_refused((kstate_state_p)transaction, (kstate_transaction_p)state);
    for (int bit = 0; bit < 64; bit++)
        is_refused((kstate_state_p)((uintptr_t)state ^ (uintptr_t)1 << bit),
                   (kstate_transaction_p)((uintptr_t)transaction ^ (uintptr_t)1 << bit));
    CHECK(kstate_state_is_subscribed(state));

    /* Freed twice, by way of a copy; and whatever is made in its place. */
    kstate_state_p freed = state;
    kstate_transaction_p freed_transaction = transaction;
    kstate_free_state(&state);
    kstate_free_transaction(&transaction);
    is_refused(freed, freed_transaction);
    kstate_state_p states[100];
    for (int i = 0; i < 100; i++) {
        states[i] = kstate_new_state();
        transaction = kstate_new_transaction();
        CHECK(states[i] != freed && transaction != freed_transaction);
        kstate_free_transaction(&transaction);
    }
    is_refused(freed, freed_transaction);
    for (int i = 0; i < 100; i++)
        kstate_free_state(&states[i]);
}

static void many_handles(void)
{
    enum { MANY = 10000 };
    static kstate_state_p states[MANY];
    for (int i = 0; i < MANY; i++)
        CHECK((states[i] = kstate_new_state()) != NULL);
    for (int i = 1; i < MANY; i++)
        CHECK(kstate_get_state_id(states[i]) > kstate_get_state_id(states[i - 1]));
    for (int i = 0; i < MANY; i++)
        kstate_free_state(&states[i]);
}

static void arguments_that_are_wrong(void)
{
    kstate_state_p state = fresh_state(), reader = another(state, KSTATE_READ);
    char page[8] = {0};
    CHECK_IS(kstate_take_snapshot(state, NULL, 8, NULL), -EINVAL);
    CHECK_IS(kstate_publish(state, NULL, 8), -EINVAL);
    CHECK_IS(kstate_publish(state, page, 1u << 20), -EFBIG);
    CHECK_IS(kstate_publish(reader, page, 8), -EBADF);
    CHECK_IS(kstate_set_size(state, 0), -EINVAL);
    CHECK_IS(kstate_set_size(state, SIZE_MAX), -EFBIG);
    CHECK_IS(kstate_set_size(state, (size_t)1 << 40), -EFBIG);
    CHECK_IS(kstate_set_size(reader, 8), -EBADF);
    CHECK_IS(kstate_set_min_interval(state, -1), -EINVAL);
    CHECK_IS(kstate_set_durability(state, -1), -EINVAL);
    CHECK_IS(kstate_set_durability(state, 0), -EOPNOTSUPP);
    CHECK_IS(kstate_sync(state), -EOPNOTSUPP);
    CHECK_IS(kstate_set_trapping(state, -1), -EINVAL);
    CHECK_IS(kstate_set_trapping(state, 4), -EINVAL);
    CHECK_IS(kstate_set_persistent(state, NULL), -EINVAL);
    CHECK(kstate_set_persistent(state, "") < 0);
    CHECK(kstate_set_persistent(state, "\xff/\xfe") < 0);
    char *huge = (char *)malloc(1 << 20);
    memset(huge, 'a', (1 << 20) - 1);
    huge[(1 << 20) - 1] = 0;
    CHECK(kstate_set_persistent(state, huge) < 0);
    kstate_state_p other = kstate_new_state();
    CHECK_IS(kstate_subscribe_state(other, huge, KSTATE_WRITE), -EINVAL);
    char *unique = kstate_get_unique_name(huge);
    CHECK(unique != NULL && strlen(unique) > 1 << 20);
    CHECK_IS(kstate_subscribe_state(other, unique, KSTATE_WRITE), -EINVAL);
    free(unique);
    free(huge);

    kstate_transaction_p transaction = kstate_new_transaction();
    CHECK_IS(kstate_start_transaction(transaction, state, KSTATE_WRITE), 0);
    CHECK(kstate_get_member_ptr(transaction, other) == NULL);
    CHECK_IS(kstate_add_state(transaction, other, KSTATE_READ), -EINVAL);
    CHECK_IS(kstate_add_state(transaction, state, KSTATE_READ), -EEXIST);
    CHECK_IS(kstate_add_state(transaction, reader, KSTATE_WRITE), -EEXIST);
    CHECK_IS(kstate_set_length(transaction, NULL, 1u << 20), -EFBIG);
    CHECK_IS(kstate_set_length(transaction, other, 1), -EINVAL);
    CHECK_IS(kstate_abort_transaction(transaction), 0);
    kstate_free_transaction(&transaction);
    kstate_free_state(&other);
    kstate_free_state(&reader);
    kstate_free_state(&state);
}

static void a_child_has_no_part_in_what_its_parent_began(void)
{
    kstate_state_p state = fresh_state();
    commit_byte(state, 1);
    for (int permissions = KSTATE_READ; permissions <= KSTATE_WRITE; permissions++) {
        kstate_transaction_p transaction = kstate_new_transaction();
        CHECK_IS(kstate_start_transaction(transaction, state, (uint32_t)permissions), 0);
        char *page = (char *)kstate_get_transaction_ptr(transaction);
        CHECK_IS(*(volatile char *)page, 1);
        pid_t child = forked();
        if (child == 0) {
            errno = 0;
            int reads = kstate_get_transaction_ptr(transaction) == NULL && errno == ESTALE;
            int commits = kstate_commit_transaction(transaction);
            int ends = permissions == KSTATE_READ ? commits == -EPERM : commits == -ESTALE;
            /* The state is its own to use. */
            kstate_free_transaction(&transaction);
            commit_byte(state, 2);
            _exit(reads && ends && newest_byte(state) == 2 ? 0 : 1);
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK_IS(status, 0);
        CHECK(kstate_transaction_is_active(transaction));
        CHECK_IS(*(volatile char *)page, 1);
        if (permissions == KSTATE_WRITE) {
            *(volatile char *)page = 3;
            CHECK_IS(kstate_commit_transaction(transaction), -EPERM);
        }
        kstate_free_transaction(&transaction);
        CHECK_IS(DIES_OF(*(volatile char *)page = 1), SIGSEGV);
        commit_byte(state, 1);
    }
    kstate_free_state(&state);
}

/* What a program prints that has closed its streams goes nowhere, and not into a state. */
static void streams_that_are_closed(void)
{
    for (int closed = 1; closed < 8; closed++) {
        pid_t child = forked();
        if (child == 0) {
            for (int stream = 0; stream < 3; stream++)
                if (closed & 1 << stream)
                    close(stream);
            kstate_state_p state = fresh_state();
            char path[] = "/tmp/kstate-test-c-XXXXXX";
            int made = mkstemp(path);
            close(made);
            unlink(path);
            commit_byte(state, 7);
            int kept = kstate_set_persistent(state, path);
            /* What was opened meanwhile has gone. */
            int wrong = 0;
            for (int stream = 0; stream < 3; stream++)
                if (closed & 1 << stream)
                    wrong |= write(stream, "printed", 7) == 7;
            struct kstate_snapshot told;
            char page[65536];
            wrong |= kstate_take_snapshot(state, page, sizeof page, &told) != 0 || told.generation != 1 || page[0] != 7;
            wrong |= kept != 0 || kstate_delete(state) != 0;
            unlink(path);
            kstate_free_state(&state);
            _exit(wrong);
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK_IS(status, 0);
    }
}

enum { THREADS = 4, ROUNDS = 3000 };
static kstate_state_p shared;
static kstate_transaction_p shared_transaction;

/* All use the same handles: what one begins another may end. */
static void *use_what_others_use(void *unused)
{
    (void)unused;
    for (int round = 0; round < ROUNDS; round++) {
        int begun = kstate_start_transaction(shared_transaction, shared, KSTATE_WRITE);
        CHECK(begun == 0 || begun == -EINVAL);
        kstate_get_transaction_ptr(shared_transaction);
        kstate_get_transaction_name(shared_transaction);
        int done = kstate_commit_transaction(shared_transaction);
        CHECK(done == 0 || done == -EINVAL || done == -EPERM);
        CHECK_IS(kstate_publish(shared, &round, sizeof round), 0);
        kstate_state_p own = kstate_new_state();
        kstate_free_state(&own);
    }
    return NULL;
}

static void *subscribe_and_unsubscribe(void *name)
{
    for (int round = 0; round < 50; round++) {
        int done = kstate_subscribe_state(shared, (const char *)name, KSTATE_WRITE);
        CHECK(done == 0 || done == -EINVAL);
        unsigned char page[4096];
        done = kstate_take_snapshot(shared, page, sizeof page, NULL);
        CHECK(done == 0 || done == -EINVAL);
        kstate_unsubscribe_state(shared);
    }
    return NULL;
}

static void in_threads(void *(*work)(void *), void *argument)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK_IS(pthread_create(&threads[i], NULL, work, argument), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_IS(pthread_join(threads[i], NULL), 0);
}

static void threads_that_share_handles(void)
{
    shared = fresh_state();
    CHECK_IS(kstate_set_size(shared, 64), 0);
    shared_transaction = kstate_new_transaction();
    in_threads(use_what_others_use, NULL);
    kstate_free_transaction(&shared_transaction);
    char *name = strdup(kstate_get_state_name(shared));
    kstate_unsubscribe_state(shared);
    in_threads(subscribe_and_unsubscribe, name);
    kstate_free_state(&shared);
    free(name);
}

/* Children are forked while other threads are at work on the same handles. */
static void *fork_now_and_then(void *unused)
{
    (void)unused;
    for (int round = 0; round < 20; round++) {
        pid_t child = forked();
        if (child == 0) {
            /* Whatever it was in the middle of is an error here, and not a wait without an end. */
            alarm(120);
            kstate_take_snapshot(shared, NULL, 0, NULL);
            kstate_state_p own = kstate_subscribe(kstate_get_state_name(shared) ? kstate_get_state_name(shared) : "lost",
                                                  KSTATE_WRITE);
            if (own == NULL || kstate_publish(own, "x", 1) != 0)
                _exit(1);
            /* An end that nobody asks for leaks: what other threads had in hand at the fork is lost here. */
            raise(SIGKILL);
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    return NULL;
}

static void forks_beside_threads_at_work(void)
{
    shared = fresh_state();
    shared_transaction = kstate_new_transaction();
    pthread_t worker, forker;
    CHECK_IS(pthread_create(&worker, NULL, use_what_others_use, NULL), 0);
    CHECK_IS(pthread_create(&forker, NULL, fork_now_and_then, NULL), 0);
    CHECK_IS(pthread_join(worker, NULL), 0);
    CHECK_IS(pthread_join(forker, NULL), 0);
    kstate_free_transaction(&shared_transaction);
    kstate_free_state(&shared);
}

int main(void)
{
    what_is_no_handle_is_told_from_one();
    many_handles();
    arguments_that_are_wrong();
    a_child_has_no_part_in_what_its_parent_began();
    streams_that_are_closed();
    threads_that_share_handles();
    forks_beside_threads_at_work();
    return 0;
}

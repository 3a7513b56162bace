/* Looking, waiting, sizes, files and several states at once. */
#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>

#define MILLISECONDS INT64_C(1000000)

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void snapshots_say_what_is_known(void)
{
    kstate_state_p state = fresh_state();
    char page[65536];
    struct kstate_snapshot told;
    CHECK_IS(kstate_take_snapshot(state, page, sizeof page, &told), 0);
    CHECK_IS(told.generation, 0);
    CHECK_IS(told.length, 0);
    CHECK_IS(told.flags, 0);
    CHECK_IS(kstate_publish(state, "hello", 5), 0);
    CHECK_IS(kstate_take_snapshot(state, page, sizeof page, &told), 0);
    CHECK_IS(told.generation, 1);
    CHECK_IS(told.length, 5);
    CHECK(memcmp(page, "hello", 5) == 0);
    CHECK(told.age_ns >= 0 && told.age_ns < 10000 * MILLISECONDS);
    CHECK_IS(kstate_get_generation(state), 1);
    /* Too short: what is needed is said. */
    memset(&told, 0xff, sizeof told);
    CHECK_IS(kstate_take_snapshot(state, page, 4, &told), -ERANGE);
    CHECK_IS(told.length, 5);
    CHECK_IS(kstate_take_snapshot(state, page, 0, NULL), -ERANGE);
    /* Only what is known of it. */
    memset(&told, 0xff, sizeof told);
    CHECK_IS(kstate_take_snapshot(state, NULL, 0, &told), 0);
    CHECK_IS(told.length, 5);
    CHECK_IS(told.generation, 1);
    CHECK_IS(told.reserved[0] | told.reserved[1], 0);
    CHECK_IS(kstate_publish(state, NULL, 0), 0);
    CHECK_IS(kstate_take_snapshot(state, page, 0, &told), 0);
    CHECK_IS(told.length, 0);
    CHECK_IS(told.generation, 2);

    /* Which version is at the live pointer. */
    CHECK(kstate_get_ptr_generation(state) == KSTATE_BEING_WRITTEN);
    CHECK(kstate_get_state_ptr(state) != NULL);
    CHECK_IS(kstate_get_ptr_generation(state), 2);
    CHECK_IS(kstate_publish(state, "x", 1), 0);
    CHECK_IS(kstate_get_ptr_generation(state), 3);
    kstate_free_state(&state);
}

static void sizes_grow_once_there_is_a_value(void)
{
    kstate_state_p state = fresh_state();
    CHECK_IS(kstate_get_size(state), sysconf(_SC_PAGESIZE));
    CHECK_IS(kstate_set_size(state, 1), 0);
    CHECK_IS(kstate_set_size(state, 100), 0);
    CHECK_IS(kstate_get_size(state), 100);
    kstate_transaction_p transaction = kstate_begin(state);
    CHECK_IS(kstate_get_length(transaction, NULL), 100);
    CHECK_IS(kstate_set_length(transaction, NULL, 101), -EFBIG);
    CHECK_IS(kstate_set_length(transaction, state, 10), 0);
    CHECK_IS(kstate_get_length(transaction, state), 10);
    memcpy(kstate_get_ptr(transaction), "0123456789abc", 13);
    CHECK_IS(kstate_commit(transaction), 0);
    struct kstate_snapshot told;
    char page[65536];
    CHECK_IS(kstate_take_snapshot(state, page, sizeof page, &told), 0);
    CHECK_IS(told.length, 10);
    /* The length stays, unless it is said. */
    commit_byte(state, 'A');
    CHECK_IS(kstate_take_snapshot(state, page, sizeof page, &told), 0);
    CHECK_IS(told.length, 10);
    CHECK(memcmp(page, "A123456789", 10) == 0);
    /* Another length is a change by itself. */
    transaction = kstate_begin(state);
    CHECK_IS(kstate_set_length(transaction, NULL, 3), 0);
    CHECK_IS(kstate_commit(transaction), 0);
    CHECK_IS(kstate_take_snapshot(state, page, sizeof page, &told), 0);
    CHECK_IS(told.length, 3);
    CHECK_IS(kstate_set_size(state, 99), -EINVAL);
    CHECK_IS(kstate_set_size(state, (size_t)sysconf(_SC_PAGESIZE)), 0);
    CHECK_IS(kstate_set_size(state, (size_t)sysconf(_SC_PAGESIZE) + 1), -EFBIG);
    kstate_free_state(&state);
}

static kstate_state_p awaited;

static void *publish_later(void *after_ms)
{
    static unsigned char value;
    usleep(*(useconds_t *)after_ms * 1000);
    commit_byte(awaited, ++value);
    return NULL;
}

static void *interrupt_later(void *after_ms)
{
    usleep(*(useconds_t *)after_ms * 1000);
    CHECK_IS(kstate_interrupt(awaited, true), 0);
    return NULL;
}

static void *unsubscribe_later(void *after_ms)
{
    usleep(*(useconds_t *)after_ms * 1000);
    kstate_unsubscribe_state(awaited);
    return NULL;
}

static void with_another_thread(void *(*work)(void *), int expected)
{
    useconds_t after_ms = 50;
    uint64_t newest = kstate_get_generation(awaited), before = newest;
    pthread_t thread;
    CHECK_IS(pthread_create(&thread, NULL, work, &after_ms), 0);
    CHECK_IS(kstate_wait(awaited, before, 20000 * MILLISECONDS, &newest), expected);
    CHECK_IS(newest, before + (expected == 0));
    CHECK_IS(pthread_join(thread, NULL), 0);
}

static void waits_end_as_is_said(void)
{
    awaited = fresh_state();
    uint64_t newest = 5;
    int64_t began = now_ns();
    CHECK_IS(kstate_wait(awaited, 0, 20 * MILLISECONDS, &newest), -ETIMEDOUT);
    CHECK(now_ns() - began >= 20 * MILLISECONDS);
    CHECK_IS(newest, 5);
    CHECK_IS(kstate_wait(awaited, 0, 0, NULL), -ETIMEDOUT);
    with_another_thread(publish_later, 0);
    CHECK_IS(kstate_wait(awaited, 0, KSTATE_FOREVER, &newest), 0);
    CHECK_IS(newest, 1);
    with_another_thread(interrupt_later, -EINTR);
    CHECK_IS(kstate_wait(awaited, 1, KSTATE_FOREVER, NULL), -EINTR);
    CHECK_IS(kstate_interrupt(awaited, false), 0);
    with_another_thread(publish_later, 0);
    with_another_thread(unsubscribe_later, -EINTR);
    CHECK_IS(kstate_wait(awaited, 1, KSTATE_FOREVER, NULL), -EINVAL);
    kstate_free_state(&awaited);
}

static int is_readable(int descriptor, int timeout_ms)
{
    struct pollfd polled = {descriptor, POLLIN, 0};
    return poll(&polled, 1, timeout_ms);
}

static void a_descriptor_tells_of_what_was_not_taken(void)
{
    kstate_state_p state = fresh_state(), reader = another(state, KSTATE_READ);
    int descriptor = kstate_get_fd(reader);
    CHECK(descriptor >= 0);
    CHECK_IS(kstate_get_fd(reader), descriptor);
    CHECK(fcntl(descriptor, F_GETFD) & FD_CLOEXEC);
    CHECK_IS(is_readable(descriptor, 20), 0);
    for (unsigned char round = 1; round < 10; round++) {
        commit_byte(state, round);
        CHECK_IS(is_readable(descriptor, 20000), 1);
        commit_byte(state, (unsigned char)(round + 100));
        CHECK_IS(is_readable(descriptor, 20000), 1);
        CHECK_IS(newest_byte(reader), round + 100);
        CHECK_IS(is_readable(descriptor, 20), 0);
    }
    /* At a rate: what was taken, and then what is newer when its time has come. */
    CHECK_IS(kstate_set_min_interval(reader, 200 * MILLISECONDS), 0);
    CHECK_IS(kstate_get_fd(reader), descriptor);
    CHECK_IS(newest_byte(reader), 109);
    CHECK_IS(is_readable(descriptor, 20), 0);
    for (unsigned char round = 1; round < 3; round++) {
        int64_t began = now_ns();
        commit_byte(state, round);
        CHECK_IS(newest_byte(reader), round == 1 ? 109 : 1);
        CHECK_IS(is_readable(descriptor, 20000), 1);
        CHECK(now_ns() - began > 100 * MILLISECONDS);
        CHECK_IS(newest_byte(reader), round);
        CHECK_IS(is_readable(descriptor, 20), 0);
    }
    kstate_free_state(&reader);
    CHECK_IS(fcntl(descriptor, F_GETFD), -1);
    kstate_free_state(&state);
}

static void a_descriptor_is_of_what_was_taken(void)
{
    kstate_state_p state = fresh_state();
    commit_byte(state, 1);
    CHECK_IS(newest_byte(state), 1);
    int descriptor = kstate_get_fd(state);
    CHECK_IS(is_readable(descriptor, 20), 0);
    commit_byte(state, 2);
    CHECK_IS(is_readable(descriptor, 20000), 1);
    /* What there was no room for is not taken. */
    char byte;
    CHECK_IS(kstate_take_snapshot(state, &byte, 1, NULL), -ERANGE);
    CHECK_IS(is_readable(descriptor, 20000), 1);
    CHECK_IS(newest_byte(state), 2);
    CHECK_IS(is_readable(descriptor, 20), 0);
    if (under_valgrind()) {
        kstate_free_state(&state);
        return;
    }
    /* A child's is its own, from the first time it asks. */
    pid_t child = forked();
    if (child == 0) {
        int own = kstate_get_fd(state);
        CHECK(own >= 0);
        CHECK_IS(is_readable(own, 20), 0);
        commit_byte(state, 3);
        CHECK_IS(is_readable(own, 20000), 1);
        CHECK_IS(newest_byte(state), 3);
        CHECK_IS(kstate_get_fd(state), own);
        CHECK_IS(is_readable(own, 20), 0);
        kstate_free_state(&state);
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_IS(status, 0);
    CHECK_IS(is_readable(descriptor, 20000), 1);
    CHECK_IS(newest_byte(state), 3);
    kstate_free_state(&state);
}

static void a_handle_can_show_less_than_there_is(void)
{
    kstate_state_p state = fresh_state(), reader = another(state, KSTATE_READ);
    const volatile unsigned char *fast = (const volatile unsigned char *)kstate_get_state_ptr(reader);
    CHECK_IS(kstate_set_min_interval(reader, 300 * MILLISECONDS), 0);
    const volatile unsigned char *calm = (const volatile unsigned char *)kstate_get_state_ptr(reader);
    CHECK(calm != NULL && calm != fast);
    CHECK(kstate_get_state_ptr(reader) == (const void *)calm);
    commit_byte(state, 1);
    while (*calm != 1)
        usleep(1000);
    int64_t began = now_ns();
    commit_byte(state, 2);
    CHECK_IS(*fast, 2);
    uint64_t newest = kstate_get_generation(reader);
    CHECK_IS(newest, 1);
    CHECK_IS(newest_byte(reader), 1);
    CHECK_IS(kstate_wait(reader, newest, 20000 * MILLISECONDS, &newest), 0);
    CHECK(now_ns() - began > 150 * MILLISECONDS);
    CHECK_IS(newest, 2);
    CHECK_IS(newest_byte(reader), 2);
    /* Transactions are on what there is. */
    commit_byte(state, 3);
    kstate_transaction_p transaction = kstate_begin(reader);
    CHECK_IS(*(const volatile unsigned char *)kstate_get_ptr(transaction), 3);
    CHECK_IS(kstate_abort(transaction), 0);
    CHECK_IS(kstate_set_min_interval(reader, 0), 0);
    CHECK_IS(newest_byte(reader), 3);
    CHECK_IS(*(const volatile unsigned char *)kstate_get_state_ptr(reader), 3);
    kstate_free_state(&reader);
    kstate_free_state(&state);
}

static void several_states_commit_together_or_not_at_all(void)
{
    kstate_state_p alice = fresh_state(), bob = fresh_state(), rate = fresh_state();
    kstate_state_p rate_reader = another(rate, KSTATE_READ);
    commit_byte(alice, 100);
    commit_byte(bob, 10);
    commit_byte(rate, 2);
    kstate_transaction_p transaction = kstate_new_transaction();
    /* disturbed: nobody, a state that is written, one that is only looked at, one that is not even that. */
    for (int disturbed = 0; disturbed < 4; disturbed++) {
        CHECK_IS(kstate_add_state(transaction, alice, KSTATE_WRITE), -EINVAL);
        CHECK_IS(kstate_start_transaction(transaction, alice, KSTATE_WRITE), 0);
        CHECK_IS(kstate_add_state(transaction, bob, KSTATE_WRITE), 0);
        CHECK_IS(kstate_add_state(transaction, bob, KSTATE_READ), -EEXIST);
        CHECK_IS(kstate_add_state(transaction, rate_reader, KSTATE_WRITE), -EINVAL);
        CHECK_IS(kstate_add_state(transaction, rate_reader, KSTATE_READ), 0);
        volatile unsigned char *of_alice = (volatile unsigned char *)kstate_get_member_ptr(transaction, alice);
        volatile unsigned char *of_bob = (volatile unsigned char *)kstate_get_member_ptr(transaction, bob);
        CHECK(kstate_get_ptr(transaction) == (const void *)of_alice);
        unsigned char amount = 2;
        if (disturbed != 3)
            amount = *(const volatile unsigned char *)kstate_get_member_ptr(transaction, rate);
        unsigned char alice_before = *of_alice, bob_before = *of_bob;
        *of_alice = (unsigned char)(*of_alice - amount);
        *of_bob = (unsigned char)(*of_bob + amount);
        CHECK_IS(kstate_validate_transaction(transaction), 0);
        if (disturbed == 1)
            commit_byte(bob, bob_before);
        if (disturbed >= 2)
            commit_byte(rate, 2);
        CHECK_IS(kstate_validate_transaction(transaction), disturbed ? -EPERM : 0);
        int fails = disturbed == 1 || disturbed == 2;
        CHECK_IS(kstate_commit_transaction(transaction), fails ? -EPERM : 0);
        CHECK(!kstate_transaction_is_active(transaction));
        CHECK_IS(newest_byte(alice), alice_before - (fails ? 0 : amount));
        CHECK_IS(newest_byte(bob), bob_before + (fails ? 0 : amount));
    }
    /* One that only looked at a state it could have written. */
    for (int disturbed = 0; disturbed < 2; disturbed++) {
        CHECK_IS(kstate_start_transaction(transaction, alice, KSTATE_WRITE), 0);
        CHECK_IS(kstate_add_state(transaction, bob, KSTATE_WRITE), 0);
        unsigned char seen = *(volatile unsigned char *)kstate_get_member_ptr(transaction, bob);
        *(volatile unsigned char *)kstate_get_ptr(transaction) = seen;
        if (disturbed)
            commit_byte(bob, seen);
        CHECK_IS(kstate_commit_transaction(transaction), disturbed ? -EPERM : 0);
    }
    /* All of them for reading. */
    CHECK_IS(kstate_start_transaction(transaction, alice, KSTATE_READ), 0);
    CHECK_IS(kstate_add_state(transaction, bob, KSTATE_READ), 0);
    CHECK_IS(kstate_commit_transaction(transaction), -EPERM);
    CHECK(kstate_transaction_is_active(transaction));
    kstate_free_transaction(&transaction);
    kstate_free_state(&alice);
    kstate_free_state(&bob);
    kstate_free_state(&rate_reader);
    kstate_free_state(&rate);
}

static void a_state_is_kept_in_a_file(void)
{
    char directory[] = "/tmp/kstate-test-c-XXXXXX", path[64], other[64];
    CHECK(mkdtemp(directory) != NULL);
    snprintf(path, sizeof path, "%s/state", directory);
    snprintf(other, sizeof other, "%s/other", directory);
    kstate_state_p state = fresh_state();
    CHECK_IS(kstate_set_size(state, 64), 0);
    CHECK_IS(kstate_set_persistent(state, directory), -EISDIR);
    CHECK_IS(kstate_set_persistent(state, path), 0);
    CHECK_IS(kstate_set_persistent(state, path), 0);
    CHECK_IS(kstate_set_persistent(state, other), -EEXIST);
    CHECK_IS(kstate_set_durability(state, 100 * MILLISECONDS), 0);
    kstate_transaction_p transaction = kstate_begin(state);
    *(volatile unsigned char *)kstate_get_ptr(transaction) = 5;
    CHECK_IS(kstate_commit_durable(transaction), 0);
    commit_byte(state, 6);
    CHECK_IS(kstate_sync(state), 0);
    struct stat about;
    CHECK_IS(stat(path, &about), 0);
    CHECK_IS(about.st_mode & 0777, 0600);
    char *name = strdup(kstate_get_state_name(state));
    CHECK_IS(kstate_delete(state), 0);
    kstate_free_state(&state);
    /* The name is free, and the file has the value. */
    state = kstate_subscribe(name, KSTATE_WRITE);
    CHECK_IS(newest_byte(state), 0);
    CHECK_IS(kstate_set_persistent(state, path), 0);
    CHECK_IS(newest_byte(state), 6);
    CHECK_IS(kstate_delete(state), 0);
    kstate_free_state(&state);
    CHECK_IS(unlink(path), 0);
    CHECK_IS(rmdir(directory), 0);
    free(name);
}

static void a_deleted_state_says_so(void)
{
    kstate_state_p state = fresh_state();
    commit_byte(state, 1);
    int ready[2];
    CHECK_IS(pipe(ready), 0);
    pid_t child = forked();
    if (child == 0) {
        kstate_state_p other = another(state, KSTATE_READ);
        CHECK_IS(write(ready[1], "", 1), 1);
        unsigned char byte = 0;
        struct kstate_snapshot seen;
        do {
            /* Since the version that was looked at: one that came behind the look is not waited for. */
            CHECK_IS(kstate_take_snapshot(other, NULL, 0, &seen), 0);
            byte = newest_byte(other);
        } while (byte != 2 && kstate_wait(other, seen.generation, 20000 * MILLISECONDS, NULL) == 0);
        CHECK_IS(byte, 2);
        kstate_free_state(&other);
        kstate_free_state(&state);
        _exit(0);
    }
    char word;
    CHECK_IS(read(ready[0], &word, 1), 1);
    CHECK_IS(kstate_delete(state), -EBUSY);
    commit_byte(state, 2);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_IS(status, 0);
    kstate_transaction_p transaction = kstate_begin(state);
    *(volatile unsigned char *)kstate_get_ptr(transaction) = 3;
    CHECK_IS(kstate_delete(state), 0);
    CHECK_IS(kstate_commit(transaction), -ESTALE);
    CHECK_IS(kstate_take_snapshot(state, NULL, 0, NULL), -ESTALE);
    CHECK_IS(kstate_publish(state, "x", 1), -ESTALE);
    CHECK(kstate_begin(state) == NULL);
    CHECK_IS(errno, ESTALE);
    CHECK_IS(kstate_wait(state, 0, 0, NULL), -ESTALE);
    CHECK(kstate_delete(state) < 0);
    CHECK(strstr(kstate_last_error(), kstate_get_state_name(state)) != NULL);
    kstate_free_state(&state);
}

static void every_way_of_trapping_tells_writes_from_looks(void)
{
    for (int trapping = KSTATE_TRAP_BY_THREAD; trapping <= KSTATE_TRAP_NOTHING; trapping++) {
        kstate_state_p state = fresh_state();
        commit_byte(state, 1);
        CHECK_IS(kstate_set_trapping(state, trapping), 0);
        kstate_transaction_p transaction = kstate_begin(state);
        if (transaction == NULL) {
            /* Without a privilege, or under valgrind. Copying always works. */
            CHECK_IS(errno, EOPNOTSUPP);
            CHECK(trapping == KSTATE_TRAP_BY_SIGNAL || trapping == KSTATE_TRAP_KERNEL);
            kstate_free_state(&state);
            continue;
        }
        CHECK_IS(*(volatile unsigned char *)kstate_get_ptr(transaction), 1);
        commit_byte(state, 2);
        CHECK_IS(kstate_commit(transaction), 0);
        transaction = kstate_begin(state);
        *(volatile unsigned char *)kstate_get_ptr(transaction) = 3;
        commit_byte(state, 4);
        CHECK_IS(kstate_commit(transaction), -EPERM);
        transaction = kstate_begin(state);
        *(volatile unsigned char *)kstate_get_ptr(transaction) = 5;
        CHECK_IS(kstate_commit(transaction), 0);
        CHECK_IS(newest_byte(state), 5);
        kstate_free_state(&state);
    }
}

int main(void)
{
    CHECK(strlen(kstate_version()) >= 5);
    CHECK(strcmp(kstate_strerror(-EPERM), kstate_strerror(EPERM)) == 0);
    CHECK(kstate_strerror(12345) != NULL && strlen(kstate_strerror(0)) > 0);
    snapshots_say_what_is_known();
    sizes_grow_once_there_is_a_value();
    waits_end_as_is_said();
    a_descriptor_tells_of_what_was_not_taken();
    a_descriptor_is_of_what_was_taken();
    a_handle_can_show_less_than_there_is();
    several_states_commit_together_or_not_at_all();
    a_state_is_kept_in_a_file();
    a_deleted_state_says_so();
    every_way_of_trapping_tells_writes_from_looks();
    return 0;
}

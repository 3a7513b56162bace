/* kstate: live state shared between processes.
 *
 * A state is a named value of at most a page. One process writes it thousands of times a second; others read it at will, wait
 * for it to change, or see it change at most so often. Writing is by transactions that never wait, and fail at commit if
 * somebody else was first.
 *
 *     kstate_state_p state = kstate_subscribe("robot.position", KSTATE_READ | KSTATE_WRITE);
 *     kstate_transaction_p tx = kstate_start_transaction(state);
 *     struct position *position = kstate_get_ptr(tx);
 *     position->x += 1.0;
 *     if (kstate_commit(tx) == -EPERM)
 *         ...somebody else was first: start again...
 *
 * Errors are negative errno values unless a function says otherwise; kstate_last_error() has the sentence. Functions that
 * return pointers return NULL and set errno. Whatever is passed as a handle, be it NULL, freed or no handle at
 * all, is an error (-EINVAL, NULL, 0 or false) and nothing worse.
 *
 * Threads may share handles: calls on one handle come one after the other, and one that asks the daemon keeps those behind it
 * for as long as that takes; kstate_wait() keeps nobody out. After fork() a child uses the states of its parent, and begins
 * transactions of its own: those of its parent are -ESTALE there. Nothing here may be called in a signal handler, and no thread
 * cancelled within a call. A program out of memory ends, as by abort().
 *
 * For C11 and C++98, and what followed.
 *
 * Each function has a manual page: kstate(3) lists them.
 */
#ifndef KSTATE_H
#define KSTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The longest name of a state, in bytes without the zero at its end. Names are words of A-Z a-z 0-9 _ -, joined by single dots. */
#define KSTATE_MAX_NAME_LEN 247

/* As a timeout: for ever. */
#define KSTATE_FOREVER INT64_C(-1)

/* As a generation: the page at the live pointer is just being written. */
#define KSTATE_BEING_WRITTEN UINT64_MAX

typedef struct kstate_state *kstate_state_p;
typedef struct kstate_transaction *kstate_transaction_p;

/* What may be done with a state. Writing implies reading. */
enum kstate_permissions {
    KSTATE_READ = 1,
    KSTATE_WRITE = 2
};
typedef uint32_t kstate_permissions_t;

/* How the first touch of a transaction's page is noticed (kstate_set_trapping). */
enum kstate_trapping {
    KSTATE_TRAP_BY_THREAD = 0, /* a thread of the library answers; without userfaultfd as KSTATE_TRAP_NOTHING */
    KSTATE_TRAP_BY_SIGNAL = 1, /* the thread that touches it answers, in a handler of SIGBUS: 5 us */
    KSTATE_TRAP_KERNEL = 2,    /* accesses of the kernel's too, as by read(2) into the page; needs a privilege */
    KSTATE_TRAP_NOTHING = 3    /* copied when its address is asked for; what is the same at commit counts as unwritten */
};

/* Of kstate_snapshot.flags: the next version is overdue. */
#define KSTATE_OVERDUE 1u

/* What is known of a version besides its bytes. */
struct kstate_snapshot {
    uint64_t generation; /* how many versions there were; 0: nobody has written yet */
    int64_t age_ns;      /* since it was committed; -1: its writer has not said when */
    uint32_t length;     /* in bytes */
    uint32_t flags;      /* KSTATE_OVERDUE */
    uint64_t reserved[2];
};

/* Called with a transaction, its page and, by kstate_transact, the program's data. 0 commits; anything else aborts and is the
 * answer. */
typedef int (*kstate_transaction_fn)(kstate_transaction_p transaction, void *ptr);
typedef int (*kstate_transact_fn)(kstate_transaction_p transaction, void *ptr, void *data);

/* ---- States ------------------------------------------------------------------------------------------------------- */

/* A handle that is not subscribed; NULL: -ENOMEM in errno. */
kstate_state_p kstate_new_state(void);

/* Unsubscribes, frees the handle and makes it NULL. Transactions on it go on. */
void kstate_free_state(kstate_state_p *state);

/* Subscribes a handle to the state of that name. For writing, creates the state if it is absent.
 * -EINVAL: no free handle, a bad name, bad permissions; -ENOENT: for reading, and there is none; else as open(2) and mmap(2). */
int kstate_subscribe_state(kstate_state_p state, const char *name, kstate_permissions_t permissions);

/* A new handle, subscribed; creates the state if it is absent, for reading as well. NULL: see errno. */
kstate_state_p kstate_subscribe(const char *name, kstate_permissions_t permissions);

/* Ends the subscription and all waits through the handle, which can be subscribed again. */
void kstate_unsubscribe_state(kstate_state_p state);

bool kstate_state_is_subscribed(kstate_state_p state);

/* The name is good until the handle is unsubscribed. NULL and 0 for a handle that is not subscribed; the id is the handle's
 * and stays. */
const char *kstate_get_state_name(kstate_state_p state);
uint32_t kstate_get_state_permissions(kstate_state_p state);
uint32_t kstate_get_state_id(kstate_state_p state);

/* The newest value, at an address that stays until the handle is unsubscribed, for reading alone: a page, zeros behind the
 * value. It changes at any time, and can be seen half-written: kstate_get_ptr_generation() before and after a look tells.
 * Fetched once by anybody, it costs each commit of the state a copy. NULL: see errno. */
void *kstate_get_state_ptr(kstate_state_p state);

/* Which generation is at the live pointer; KSTATE_BEING_WRITTEN while it is changed, and, with errno set, without one. */
uint64_t kstate_get_ptr_generation(kstate_state_p state);

/* The newest generation, or the one that the handle shows; 0: never written. One load. */
uint64_t kstate_get_generation(kstate_state_p state);

/* Copies one whole version to the buffer, and says of it what is known; either may be NULL (a NULL buffer has size 0).
 * -ERANGE: the buffer is too short, into->length says for what; -ESTALE: the state was deleted. No system call, unless a
 * descriptor is watched. */
int kstate_take_snapshot(kstate_state_p state, void *buffer, size_t size, struct kstate_snapshot *into);

/* Replaces the value, whatever it was, and whoever else writes. -EBADF: subscribed for reading; -EFBIG: longer than the
 * state's size; -ESTALE: deleted. */
int kstate_publish(kstate_state_p state, const void *data, size_t length);

/* How many bytes there is room for: a page at most. Before the first write anything, then only more: -EINVAL. -EFBIG: more
 * than a page; -EBADF: subscribed for reading. */
int kstate_set_size(kstate_state_p state, size_t bytes);
size_t kstate_get_size(kstate_state_p state);

/* Backs the state by this file, made if it is absent, for ever. 0 as well if it is backed by that one; -EEXIST: by another. */
int kstate_set_persistent(kstate_state_p state, const char *path);

/* How soon behind a commit its version is in that file; 0: as soon as can be, each. -EOPNOTSUPP: not persistent. */
int kstate_set_durability(kstate_state_p state, int64_t within_ns);

/* Waits until the newest version is in that file for good. -EOPNOTSUPP: not persistent. */
int kstate_sync(kstate_state_p state);

/* Ends the state for everybody; uses of it are -ESTALE from then on. -EBUSY: another process is subscribed. */
int kstate_delete(kstate_state_p state);

/* From now on the handle shows a change at most once in so long: snapshots, waits, the descriptor, the live pointer if it is
 * fetched again. 0: every change, as at first. Transactions work on the newest value in any case. */
int kstate_set_min_interval(kstate_state_p state, int64_t interval_ns);

/* How first touches are noticed in transactions from now on: enum kstate_trapping. */
int kstate_set_trapping(kstate_state_p state, int trapping);

/* ---- Waiting ------------------------------------------------------------------------------------------------------ */

/* Sleeps until the handle shows another generation than `since`, which then is at `newest` if that is not NULL. `since` is that of
 * the version the program has acted upon: of its snapshot, or of the last wait. Asked for anew it may be one later, and the wait
 * misses a change.
 * -ETIMEDOUT; -EINTR: a signal handler ran, kstate_interrupt(), or the handle was unsubscribed; -ESTALE: deleted. */
int kstate_wait(kstate_state_p state, uint64_t since, int64_t timeout_ns, uint64_t *newest);

/* Ends the waits through the handle, in other threads; all of them until it is called with false. */
int kstate_interrupt(kstate_state_p state, bool raised);

/* A descriptor for poll(2), epoll(7) and the like, readable when the handle shows a version that kstate_take_snapshot() has
 * not taken yet. It is the handle's, and closed with its subscription. In a forked child: ask again. Negative: errno. */
int kstate_get_fd(kstate_state_p state);

/* ---- Transactions --------------------------------------------------------------------------------------------------- */

/* A handle without a transaction; NULL: see errno. */
kstate_transaction_p kstate_new_transaction(void);

/* Aborts, frees the handle and makes it NULL. */
void kstate_free_transaction(kstate_transaction_p *transaction);

/* Begins a transaction from the newest version. Nobody waits for it, and it waits for nobody. With KSTATE_READ a copy to be read;
 * with KSTATE_WRITE a page that is filled when it is first touched.
 * -EINVAL: no handle, a handle in use, a state that is not subscribed, or not for this, bad permissions.
 * With one argument, kstate_start_transaction(state): see kstate_begin(). */
int (kstate_start_transaction)(kstate_transaction_p transaction, kstate_state_p state, uint32_t permissions);

/* A new handle with a transaction of what the state was subscribed for. kstate_commit() and kstate_abort() free it. */
kstate_transaction_p kstate_begin(kstate_state_p state);

/* One more state for the transaction, as of now: it commits if nothing of what was looked at or changed has been changed by
 * others. -EINVAL: not active; -EEXIST: in it already; -E2BIG: too many. */
int kstate_add_state(kstate_transaction_p transaction, kstate_state_p state, uint32_t permissions);

/* The page of the transaction's first state, or of that one. It may be read, and written if that is what it is in the
 * transaction for: else the process dies by SIGSEGV, as it does when it touches the page after the end. NULL: see errno. */
void *kstate_get_transaction_ptr(kstate_transaction_p transaction);
void *kstate_get_member_ptr(kstate_transaction_p transaction, kstate_state_p state);

/* How many bytes the value has, and will have when it is committed: as many as before, or the state's size if that was 0,
 * unless it is said. NULL for the first state. Negative: errno; -EFBIG: more than the state's size. */
ptrdiff_t kstate_get_length(kstate_transaction_p transaction, kstate_state_p state);
int kstate_set_length(kstate_transaction_p transaction, kstate_state_p state, size_t length);

/* Whether nobody has changed any of its states so far: 0 or -EPERM. */
int kstate_validate_transaction(kstate_transaction_p transaction);

/* Ends the transaction, and nothing was changed. -EINVAL: not active. kstate_abort() frees the handle that was made by
 * kstate_start_transaction(state). */
int kstate_abort_transaction(kstate_transaction_p transaction);
int kstate_abort(kstate_transaction_p transaction);

/* Makes what was written newest, unless somebody else was first: -EPERM, and the transaction has ended. If nothing was written, 0.
 * A transaction for reading alone is -EPERM too, and stays active (kstate_transaction_is_active): it is to be aborted, and no
 * reason to try again. -EINVAL: not active; other errors end it.
 * kstate_commit() frees the handle that was made by kstate_start_transaction(state).
 * kstate_commit_durable() also waits until it is in the states' files. */
int kstate_commit_transaction(struct kstate_transaction *transaction);
int kstate_commit(kstate_transaction_p transaction);
int kstate_commit_durable(kstate_transaction_p transaction);

bool kstate_transaction_is_active(kstate_transaction_p transaction);
const char *kstate_get_transaction_name(kstate_transaction_p transaction);
uint32_t kstate_get_transaction_permissions(kstate_transaction_p transaction);
uint32_t kstate_get_transaction_id(kstate_transaction_p transaction);

/* Calls the function within a transaction and commits; if somebody else was first, again with the newest value, with pauses
 * that make it come through. 0: committed; what the function returned if that was not 0; -EPERM: others were first each time,
 * once without `retry`, else 1000 times. An exception of C++ goes through, and aborts. */
int kstate_transaction_using_fn(kstate_state_p state, kstate_transaction_fn fn, bool retry);

/* The same for a function that is given data; as many attempts, 0 for 1000. */
int kstate_transact(kstate_state_p state, kstate_transact_fn fn, void *data, uint32_t attempts);

/* ---- Everything else ------------------------------------------------------------------------------------------------ */

/* prefix.<seconds><microseconds>.<process>.<number>, which no other call gives where processes have numbers of their own; to be
 * freed with free(). */
char *kstate_get_unique_name(const char *prefix);

/* For people: `start`, a line about the handle, and an end of line if wanted. */
void kstate_print_state(FILE *stream, const char *start, kstate_state_p state, bool eol);
void kstate_print_transaction(FILE *stream, const char *start, kstate_transaction_p transaction, bool eol);

/* What an errno, negative or not, means here. The string is not to be freed. */
const char *kstate_strerror(int error);

/* What the last call of this thread that failed had to say; good until the next call of this function. */
const char *kstate_last_error(void);

/* Sees to it that a daemon serves `directory`, or, for NULL, the place where states are looked for; and there from now on
 * whenever one is needed. As with KSTATE_EMBED=1 in the environment. */
int kstate_start_daemon(const char *directory);

/* The version of the library, such as "0.1.0". */
const char *kstate_version(void);

#ifdef __cplusplus
} /* extern "C" */

/* The short spellings. */
static inline void *kstate_get_ptr(kstate_state_p state) { return kstate_get_state_ptr(state); }
static inline void *kstate_get_ptr(kstate_transaction_p transaction) { return kstate_get_transaction_ptr(transaction); }
static inline kstate_transaction_p kstate_start_transaction(kstate_state_p state) { return kstate_begin(state); }

#else

/* A pointer to the data of a state, or of a transaction. */
#define kstate_get_ptr(handle)                            \
    _Generic((handle),                                    \
        struct kstate_state *: kstate_get_state_ptr,      \
        struct kstate_transaction *: kstate_get_transaction_ptr)(handle)

/* kstate_start_transaction(state), or kstate_start_transaction(transaction, state, permissions). */
#define KSTATE_THIRD_(_1, _2, _3, chosen, ...) chosen
#define kstate_start_transaction(...) \
    KSTATE_THIRD_(__VA_ARGS__, kstate_start_transaction, kstate_start_takes_one_or_three_arguments, kstate_begin, 0)(__VA_ARGS__)

#endif

#endif /* KSTATE_H */

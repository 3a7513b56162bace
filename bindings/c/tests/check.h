/* What the tests share. Each is a program in what C11 and C++17 have in common; it says nothing if all is well. */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kstate.h"

#define CHECK(holds)                                                                                      \
    do {                                                                                                  \
        if (!(holds)) {                                                                                   \
            fprintf(stderr, "%s:%d: not so: %s; last error: %s\n", __FILE__, __LINE__, #holds,            \
                    kstate_last_error());                                                                 \
            exit(1);                                                                                      \
        }                                                                                                 \
    } while (0)

#define CHECK_IS(found, expected)                                                                         \
    do {                                                                                                  \
        long long found_ = (long long)(found), expected_ = (long long)(expected);                         \
        if (found_ != expected_) {                                                                        \
            fprintf(stderr, "%s:%d: %s is %lld and not %lld; last error: %s\n", __FILE__, __LINE__,       \
                    #found, found_, expected_, kstate_last_error());                                      \
            exit(1);                                                                                      \
        }                                                                                                 \
    } while (0)

/* Whether valgrind runs this. It loses track of memory that a fork leaves out (MADV_DONTFORK), and ends with an assertion of its
 * own when the child maps something in its place: such a child is only looked at without it. */
static inline int under_valgrind(void)
{
    const char *preloaded = getenv("LD_PRELOAD");
    return preloaded != NULL && strstr(preloaded, "vgpreload") != NULL;
}

/* A name that no other test has, to be freed. */
static inline char *fresh_name(void)
{
    char *name = kstate_get_unique_name("test");
    CHECK(name != NULL);
    return name;
}

/* A handle on a new state of its own, to be read and written. */
static inline kstate_state_p fresh_state(void)
{
    char *name = fresh_name();
    kstate_state_p state = kstate_subscribe(name, KSTATE_READ | KSTATE_WRITE);
    CHECK(state != NULL);
    free(name);
    return state;
}

/* Another handle on the same state. */
static inline kstate_state_p another(kstate_state_p state, kstate_permissions_t permissions)
{
    kstate_state_p other = kstate_new_state();
    CHECK_IS(kstate_subscribe_state(other, kstate_get_state_name(state), permissions), 0);
    return other;
}

/* Replaces the first byte of the value, as one commit. */
static inline void commit_byte(kstate_state_p state, unsigned char byte)
{
    kstate_transaction_p transaction = kstate_new_transaction();
    CHECK_IS(kstate_start_transaction(transaction, state, KSTATE_WRITE), 0);
    *(volatile unsigned char *)kstate_get_transaction_ptr(transaction) = byte;
    /* Also where what is the same as before counts as unwritten. */
    CHECK_IS(kstate_set_length(transaction, NULL, (size_t)kstate_get_length(transaction, NULL)), 0);
    CHECK_IS(kstate_commit_transaction(transaction), 0);
    kstate_free_transaction(&transaction);
}

static inline unsigned char newest_byte(kstate_state_p state)
{
    /* One that nobody has written has no byte. */
    unsigned char page[65536] = {0};
    CHECK_IS(kstate_take_snapshot(state, page, sizeof page, NULL), 0);
    return page[0];
}

/* A fork whose child ends with its parent, however that ends. */
static inline pid_t forked(void)
{
    pid_t child = fork();
    if (child == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    return child;
}

/* The signal that a child dies of that does this, or minus what it exits with. */
#define DIES_OF(what)                                                                                     \
    __extension__({                                                                                       \
        pid_t child_ = forked();                                                                            \
        if (child_ == 0) {                                                                                \
            signal(SIGSEGV, SIG_DFL);                                                                     \
            what;                                                                                         \
            _exit(0);                                                                                     \
        }                                                                                                 \
        int status_ = 0;                                                                                  \
        CHECK(waitpid(child_, &status_, 0) == child_);                                                    \
        WIFSIGNALED(status_) ? WTERMSIG(status_) : -WEXITSTATUS(status_);                                 \
    })

#endif

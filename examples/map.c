/* Prints a position ten times a second out of mapped memory, in C: no system call to look at it.
 *
 *   one terminal:   any publisher, such as ./publish /run/kstate/demo.position
 *   another:        cc -std=c11 -I../kstate-sys/include -o map map.c &&
 *                   ./map /run/kstate/demo.position
 *
 * A second argument says how many to print. This takes a mount with passthrough
 * (`cat /run/kstate/.kstate/version` says).
 */
#define _XOPEN_SOURCE 700
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kstate_ioctl.h"

/* Copies a whole version, ended by NUL, and gives its generation; 0 if it changed meanwhile. */
static uint64_t copy(const unsigned char *live, size_t page, char *value) {
    const _Atomic uint64_t *tag = (const void *)(live + page + KSTATE_LIVE_TAG);
    const _Atomic uint32_t *length = (const void *)(live + page + KSTATE_LIVE_LENGTH);
    uint64_t before = atomic_load_explicit(tag, memory_order_acquire);
    size_t bytes = atomic_load_explicit(length, memory_order_relaxed);
    if ((before & KSTATE_LIVE_UNFINISHED) || bytes > page)
        return 0;
    /* Others write there meanwhile, so by volatile accesses, and looked at only once known whole. */
    for (size_t at = 0; at < bytes; at++)
        value[at] = (char)((const volatile unsigned char *)live)[at];
    value[bytes] = '\0';
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(tag, memory_order_relaxed) == before ? before : 0;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s STATE [COUNT]\n", argv[0]);
        return 2;
    }
    const char *path = argv[1];
    long count = argc > 2 ? atol(argv[2]) : 0;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *value = malloc(page + 1);

    /* The descriptor stays open: a map alone does not keep the state. */
    int state = open(path, O_RDONLY | O_CLOEXEC);
    if (state < 0 || value == NULL) {
        perror(path);
        return EXIT_FAILURE;
    }
    const unsigned char *live = mmap(NULL, 2 * page, PROT_READ, MAP_SHARED, state, 0);
    if (live == MAP_FAILED) {
        fprintf(stderr, "%s: cannot be mapped%s\n", path,
                errno == ENODEV ? ": no passthrough" : "");
        return EXIT_FAILURE;
    }

    uint64_t seen = 0;
    for (long printed = 0; count == 0 || printed < count;) {
        uint64_t generation = copy(live, page, value);
        long step;
        double x, y;
        if (generation != 0 && generation != seen) {
            if (sscanf(value, "%ld %lf %lf", &step, &x, &y) != 3) {
                fprintf(stderr, "%s: no position\n", path);
                return EXIT_FAILURE;
            }
            printf("%ld: %.3f %.3f\n", step, x, y);
            fflush(stdout);
            seen = generation;
            printed++;
        }
        nanosleep(&(struct timespec){.tv_nsec = 100 * 1000 * 1000}, NULL);
    }
    return EXIT_SUCCESS;
}

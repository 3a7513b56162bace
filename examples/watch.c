/* Prints a position whenever it changes, in C: a state among the descriptors of an event loop.
 *
 *   one terminal:   any publisher, such as ./publish /run/kstate/demo.position
 *   another:        cc -std=c11 -o watch watch.c && ./watch /run/kstate/demo.position
 *
 * A second argument says how many to print. For no more than four a second, watch
 * /run/kstate/demo.position@4hz.
 */
#define _XOPEN_SOURCE 700
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

static int failed(const char *path) {
    perror(path);
    return EXIT_FAILURE;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s STATE [COUNT]\n", argv[0]);
        return 2;
    }
    const char *path = argv[1];
    long count = argc > 2 ? atol(argv[2]) : 0;

    int state = open(path, O_RDONLY | O_CLOEXEC);
    if (state < 0)
        return failed(path);
    int loop = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event wanted = {.events = EPOLLIN | EPOLLPRI, .data.fd = state};
    if (loop < 0 || epoll_ctl(loop, EPOLL_CTL_ADD, state, &wanted) < 0)
        return failed("epoll");

    for (long printed = 0; count == 0 || printed < count;) {
        struct epoll_event event;
        if (epoll_wait(loop, &event, 1, -1) < 0)
            return failed("epoll");
        /* Read in either case, and from offset 0: that is what was waited for, and what ends it. */
        char line[4097];
        ssize_t length = pread(event.data.fd, line, sizeof line - 1, 0);
        if (length < 0)
            return failed(path);
        line[length] = '\0';
        /* Readable: there is a version newer than the last one read through this descriptor. */
        if (event.events & EPOLLIN) {
            long step;
            double x, y;
            if (sscanf(line, "%ld %lf %lf", &step, &x, &y) != 3) {
                fprintf(stderr, "%s: no position\n", path);
                return EXIT_FAILURE;
            }
            printf("%ld: %.3f %.3f\n", step, x, y);
            fflush(stdout);
            printed++;
        } else if (event.events & EPOLLPRI) {
            fprintf(stderr, "overdue: nothing new by the state's deadline\n");
        }
        if (event.events & EPOLLHUP)
            break; /* The state was deleted. */
    }
    return EXIT_SUCCESS;
}

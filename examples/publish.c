/* Publishes a position ten times a second, in C.
 *
 *   one terminal:   cc -std=c11 -o publish publish.c -lm && ./publish /run/kstate/demo.position
 *   another:        any watcher, such as ./watch /run/kstate/demo.position
 *
 * A position is a line of text, "STEP X Y". A second argument says how many to publish.
 */
#define _XOPEN_SOURCE 700
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
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

    /* Opening with O_CREAT subscribes, and creates the state if it is not there. */
    int state = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (state < 0)
        return failed(path);
    for (long step = 0; count == 0 || step < count; step++) {
        char line[64];
        double angle = (double)step / 10;
        int length = snprintf(line, sizeof line, "%ld %.3f %.3f\n", step, cos(angle), sin(angle));
        /* Truncating commits nothing: it makes the next write replace the whole value, which the
         * last one may have been longer than. One write is one version. */
        if (ftruncate(state, 0) < 0 || pwrite(state, line, (size_t)length, 0) < 0)
            return failed(path);
        nanosleep(&(struct timespec){.tv_nsec = 100 * 1000 * 1000}, NULL);
    }
    return EXIT_SUCCESS;
}

// Spends its CPU time in throwing, in what catches, and in calls of a shared library through its linkage table. Says at the end
// how much on each, by the thread's own CPU clock. Begins at the first byte of input. Arguments: seconds.
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <stdexcept>

#define APART __attribute__((noinline, noclone))

// Of the library.
extern "C" int step(int number);

static volatile unsigned long sink;

static unsigned long now(clockid_t clock) {
    timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * 1000000000ul + at.tv_nsec;
}

extern "C" {
static APART int works(int units) {
    for (long i = 0; i < units * 1000l; i++)
        sink += i * i;
    return units + (int)(sink & 1);
}

static APART int falls(int depth) {
    if (depth == 0)
        throw std::runtime_error("deep down");
    return falls(depth - 1) + (int)(sink & 1);
}

static APART int throws(int times) {
    int caught = 0;
    for (int i = 0; i < times; i++) {
        try {
            caught += falls(12);
        } catch (const std::runtime_error &error) {
            caught += error.what()[0];
        }
    }
    return caught;
}

static APART int catches(int units) {
    try {
        return falls(3);
    } catch (const std::exception &) {
        return works(units) + (int)(sink & 1);
    }
}

static APART int calls(int times) {
    int number = times;
    for (int i = 0; i < times; i++)
        number = step(number);
    return number + (int)(sink & 1);
}
}

int main(int, char **arguments) {
    unsigned long spent[3] = {};
    std::printf("ready\n");
    std::fflush(stdout);
    if (std::getchar() == EOF)
        return 1;
    unsigned long end = now(CLOCK_MONOTONIC) + (unsigned long)(std::atof(arguments[1]) * 1e9);
    unsigned long at = now(CLOCK_THREAD_CPUTIME_ID), begun = at;
    while (now(CLOCK_MONOTONIC) < end) {
        int (*const paths[])(int) = {throws, catches, calls};
        const int much[] = {100, 700, 300000};
        for (int i = 0; i < 3; i++) {
            sink += paths[i](much[i]);
            unsigned long next = now(CLOCK_THREAD_CPUTIME_ID);
            spent[i] += next - at;
            at = next;
        }
    }
    std::printf("throws=%lu catches=%lu calls=%lu all=%lu\n", spent[0], spent[1], spent[2], at - begun);
    return 0;
}

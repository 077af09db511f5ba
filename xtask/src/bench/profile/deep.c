/* What profiles are taken of: two functions that call each other, so that main is the 27th of 30 frames (the other three are libc's
   and _start), and a loop in the innermost that takes nearly all of the time. Prints how often it went all the way down and up. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define DEPTH 25
#define SPIN 20000

static volatile unsigned long seed = 88172645463325252ul;

__attribute__((noinline)) static unsigned long spin(void)
{
    unsigned long x = seed;
    for (int i = 0; i < SPIN; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    return seed = x;
}

__attribute__((noinline)) static unsigned long odd(int left);

__attribute__((noinline)) static unsigned long even(int left)
{
    char room[48];
    unsigned long below = left == 0 ? spin() : odd(left - 1);
    snprintf(room, 2, "%d", left);
    return below + (unsigned long)room[0];
}

__attribute__((noinline)) static unsigned long odd(int left)
{
    volatile unsigned long kept = (unsigned long)left;
    return (left == 0 ? spin() : even(left - 1)) ^ kept;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    double length = argc > 1 ? atof(argv[1]) : 1;
    double began = now();
    unsigned long turns = 0;
    while (now() - began < length) {
        odd(DEPTH - 1);
        turns++;
    }
    printf("%.3f\n", (double)turns / (now() - began));
    return 0;
}

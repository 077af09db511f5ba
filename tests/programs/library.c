// A library that is opened while its program runs.
int through_library(int (*call)(int), int units) { return call(units) + 1; }

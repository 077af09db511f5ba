// A library whose only function does next to nothing, so that the way to it weighs.
extern "C" int step(int number) { return number * 1103515245 + 12345; }

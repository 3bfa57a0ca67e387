/* Which rows of the tables a run of the model has carried out: printed at its end, `row NUMBER` each. */
#include <stdio.h>
#include <stdlib.h>

#define MOST_ROWS 512

static unsigned char covered[MOST_ROWS];

static void tell_rows(void) {
  for (int number = 0; number < MOST_ROWS; number++)
    if (covered[number]) printf("row %d\n", number);
}

__attribute__((constructor)) static void begin_to_count(void) { atexit(tell_rows); }

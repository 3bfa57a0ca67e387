/* The switch between training and inference, as a model. README.md says what is in it and what is not.
 *
 * Two hybrid pods, each with a trainer and a server; a master and one that follows it; the registry; three switches:
 * Infer(1), Train(1), Infer(2). Members execute the tables of the code (table.pml, made from protocol.py).
 *
 * FAULTS: how many faults a run may have. KINDS: which the first may be, a sum of the numbers below; MORE_KINDS: the others.
 * MISTAKE: a mistake to plant. COVERAGE: tell which rows of the tables were carried out.
 */

#ifndef FAULTS
#define FAULTS 0
#endif
#ifndef KINDS
#define KINDS 255
#endif
#ifndef MORE_KINDS
#define MORE_KINDS KINDS
#endif
#ifndef MISTAKE
#define MISTAKE 0
#endif
#ifdef COVERAGE
c_decl {
\#include "coverage.h"
};
#define ROW(number) c_code { covered[number] = 1; }
#else
#define ROW(number) skip
#endif

#include "table.pml"
#include "world.pml"
#include "actions.pml"
#include "members.pml"
#include "masters.pml"
#include "faults.pml"

init {
  atomic {
    run Trainer(0, TRAINER(0)); run Server(0, SERVER(0));
    run Trainer(1, TRAINER(1)); run Server(1, SERVER(1));
    run Master(1); run Master(2);
    run Leases(); run Faults()
  }
}

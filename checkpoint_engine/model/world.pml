/* What there is, what can go wrong, and what must hold all the same. */

/* --- Kinds of faults --- */

#define IS_DUE(kind) (((faults == FAULTS -> KINDS : MORE_KINDS) & kind) != 0)
#define KILLS IS_DUE(1)         /* a shim is killed, all its processes with it */
#define LOST_LEASES IS_DUE(2)   /* the registry drops a member that lives on */
#define ENDED_CHILDREN IS_DUE(4)  /* a rank or a server ends by itself, once or too often */
#define ERRORS IS_DUE(8)        /* what a member is doing fails */
#define LATE IS_DUE(16)         /* a deadline passes, however far everybody is */
#define DAMAGE IS_DUE(32)       /* bytes of a segment change before a server has looked at them */
#define MASTERS IS_DUE(64)      /* the master is killed, or loses its key and does not know it */
#define STOPS IS_DUE(128)       /* SIGTERM */

/* --- Planted mistakes --- */

#define TOKEN_BEFORE_DEVICES (MISTAKE == 1)   /* the trainer gives the token back before it has freed the devices */
#define EPOCHS_NOT_COMPARED (MISTAKE == 2)    /* a member acts on a word again, or on an older one */
#define MASTER_NOT_COMPARED (MISTAKE == 3)    /* a master writes without its key as a guard */
#define BINDS_TOO_EARLY (MISTAKE == 4)        /* a server binds before its pod's shards are registered and compared */
#define WRITES_AGAIN (MISTAKE == 5)           /* a trainer writes a segment again that holds the generation already */
#define EXPORTS_WITHOUT_LEASE (MISTAKE == 6)  /* a trainer whose lease has gone registers shards all the same */
#define TRUSTS_ITS_SEGMENT (MISTAKE == 7)     /* a trainer does not compare what it has written before it registers it again */
#define SHARDS_OF_ANY_EPOCH (MISTAKE == 8)    /* a server takes shards that were registered for an earlier word */
#define BUILDS_TOGETHER (MISTAKE == 9)        /* ranks meet only when they build, and each pod decides by itself when that is */

/* --- Names --- */

#define PODS 2
#define MEMBERS 4
#define TRAINER(p) (2 * (p))
#define SERVER(p) (2 * (p) + 1)
#define POD(m) ((m) / 2)
#define OTHER(p) (1 - (p))
#define IS_TRAINER(m) ((m) % 2 == 0)

#define NOBODY 0          /* holds the token, or the master's key */
#define TRAINERS 1        /* the token's holders */
#define SERVERS 2

#define GONE 0            /* a lease: dropped by the registry, its keys with it */
#define ALIVE 1
#define LEFT_BEHIND 2     /* its holder is dead, its keys are still there */

#define BUSY 0            /* what a member's status says of its epoch */
#define ARRIVED 1
#define BROKEN_OFF 2

#define DAMAGED 0         /* a segment: without a record, or its bytes are not those of its record */
#define WHOLE 1
#define DAMAGED_UNNOTICED 2   /* what was just written is registered once without being read again */

#define NONE 0            /* a shard in the registry */
#define REGISTERED 1
#define REGISTERED_BY_THE_DEAD 2

#define DOWN 0            /* a trainer's ranks */
#define MEETING 1         /* they import, and wait for the other pod's; no devices yet */
#define MET 2
#define BUILT 3           /* they have a model, on the devices or parked */

#define NO_EVENT 99

#define NUM_STEPS 3       /* Infer(1), Train(1), Infer(2) */
#define IS_INFER(s) ((s) != 1)
#define GENERATION(s) ((s) / 2 + 1)
#ifndef WORDS_PER_FAULT
#define WORDS_PER_FAULT 2
#endif
#define LIMIT (NUM_STEPS + WORDS_PER_FAULT * FAULTS)   /* words after which the job counts as not getting on */

#define TO_BE_ELECTED 0   /* a master */
#define ANNOUNCING 1
#define WAITING 2
#define PUBLISHING 3
#define ASKING_FOR_A_STEP 4
#define SAVING 5
#define FINISHED 6
#define DEAD 7

/* --- The registry --- */

byte master_key = NOBODY;
byte desired_epoch = 0;
byte desired_step = 0;
byte previous_step = 0;       /* of the word before: words may come late */
byte published = 0;
byte lease[MEMBERS] = GONE;
byte status[MEMBERS] = BUSY;  /* of epoch[m]; it outlives its writer until the lease has run out */
byte shard[4] = NONE;
byte shard_epoch[PODS] = 0;   /* word for which the pod's trainer has registered last */
#define AT(p, g) (2 * (p) + (g) - 1)   /* pod's shard, or segment, of a generation */

/* --- The members --- */

byte state[MEMBERS] = S_ENDED;
byte epoch[MEMBERS] = 0;
byte step[MEMBERS] = 0;       /* the word that it acts on */

/* --- The pods --- */

byte token[PODS] = NOBODY;
bool device[MEMBERS];         /* holds device memory */
byte ranks[PODS] = DOWN;
bool partner_gone[PODS];      /* the other pod's ranks that these have met */
byte holds[PODS] = 0;         /* generation in the ranks */
bool writing[PODS];
byte segment[4] = DAMAGED;
bool verified[PODS];          /* what the server's engine found when it compared the checksums */
byte bound[PODS] = 0;         /* generation that the server has bound */
bool answers[PODS];
byte checkpoint = 1;          /* newest generation on disk */

/* --- The masters --- */

byte at[3] = TO_BE_ELECTED;   /* [0] is not used: NOBODY */
byte master_step[3] = 0;
byte master_epoch[3] = 0;

byte faults = FAULTS;

hidden byte action;
hidden byte next;
hidden byte generation;

/* --- What must hold. A counterexample names the variable --- */

hidden byte exclusive_device_broken;   /* invariant 1 */
hidden byte one_generation_broken;     /* invariant 2 */
hidden byte fencing_broken;            /* invariant 5 */
hidden byte idempotence_broken;        /* invariant 7 */
hidden byte not_in_the_table;          /* an action ends in a way that the table does not have there */
hidden byte progress_broken;           /* too many words for so few faults */
hidden byte not_at_rest;               /* all is done, nothing more happens, and a server neither answers nor says why */

#define HELD_WITHOUT_TOKEN(p) ((device[TRAINER(p)] && token[p] != TRAINERS) || (device[SERVER(p)] && token[p] != SERVERS))
#define BOTH_HOLD(p) (device[TRAINER(p)] && device[SERVER(p)])
#define ANSWERS_WRONGLY(p) (answers[p] && (bound[p] != GENERATION(step[SERVER(p)]) || segment[AT(p, bound[p])] != WHOLE))

inline check() {
  exclusive_device_broken = BOTH_HOLD(0) || BOTH_HOLD(1) || HELD_WITHOUT_TOKEN(0) || HELD_WITHOUT_TOKEN(1);
  assert(!exclusive_device_broken);
  one_generation_broken = ANSWERS_WRONGLY(0) || ANSWERS_WRONGLY(1);
  assert(!one_generation_broken)
}

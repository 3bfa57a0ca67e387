/* The master, and the one that takes its place. */

#define HAS_ARRIVED(m) (lease[m] != GONE && status[m] == ARRIVED && epoch[m] == desired_epoch)
#define HAS_FAILED(m) (lease[m] != GONE && status[m] == BROKEN_OFF && epoch[m] == desired_epoch)
#define ALL_ARRIVED (HAS_ARRIVED(0) && HAS_ARRIVED(1) && HAS_ARRIVED(2) && HAS_ARRIVED(3))
#define ANY_FAILED (HAS_FAILED(0) || HAS_FAILED(1) || HAS_FAILED(2) || HAS_FAILED(3))
#define ALL_REGISTERED (lease[0] != GONE && lease[1] != GONE && lease[2] != GONE && lease[3] != GONE)
#define SHARDS_COMPLETE(g) (shard[AT(0, g)] != NONE && shard[AT(1, g)] != NONE)
#define MAY_PUBLISH(g) (published != g && SHARDS_COMPLETE(g))
#define TRAINS(p) (state[TRAINER(p)] == S_TRAINING && epoch[TRAINER(p)] == master_epoch[me])
#define HAVE_LEARNT (holds[0] == 2 && holds[1] == 2 && segment[AT(0, 2)] == WHOLE && segment[AT(1, 2)] == WHOLE)
#define MAY_WRITE (master_key == me || MASTER_NOT_COMPARED)

/* What fails before the commit is run again from the sampling on: Infer(1), then Train(1). */
inline try_again() {
  if :: master_step[me] == 1 -> master_step[me] = 0 :: else -> skip fi;
  at[me] = ANNOUNCING
}

inline writes() {
  fencing_broken = master_key != me;
  assert(!fencing_broken)
}

proctype Master(byte me) {
  do
  :: d_step { at[me] == TO_BE_ELECTED && master_key == NOBODY && (me == 1 || at[1] != TO_BE_ELECTED) && at[1] != FINISHED && ALL_REGISTERED ->
     master_key = me; at[me] = ANNOUNCING; master_epoch[me] = desired_epoch;
     if
     :: checkpoint == 1 -> master_step[me] = 0; shard[AT(0, 2)] = NONE; shard[AT(1, 2)] = NONE
     :: else -> master_step[me] = 2; shard[AT(0, 1)] = NONE; shard[AT(1, 1)] = NONE
     fi;
     published = 0 }
  :: d_step { at[me] == ANNOUNCING && MAY_WRITE ->
     writes();
     progress_broken = master_epoch[me] >= LIMIT;
     assert(!progress_broken);
     master_epoch[me]++;
     previous_step = desired_step; desired_step = master_step[me]; desired_epoch = master_epoch[me];
     at[me] = WAITING }
  :: d_step { at[me] == WAITING && IS_INFER(master_step[me]) && MAY_PUBLISH(GENERATION(master_step[me])) -> at[me] = PUBLISHING }
  :: d_step { at[me] == PUBLISHING && MAY_WRITE -> writes(); published = GENERATION(master_step[me]); at[me] = WAITING }
  :: d_step { at[me] == WAITING && ALL_ARRIVED && desired_epoch == master_epoch[me] ->
     if
     :: master_step[me] == 1 -> at[me] = ASKING_FOR_A_STEP
     :: master_step[me] == 0 -> master_step[me] = 1; at[me] = ANNOUNCING
     :: else -> at[me] = FINISHED
     fi }
  :: d_step { at[me] == WAITING && ANY_FAILED -> try_again() }
  :: d_step { at[me] == WAITING && timeout -> try_again() }
  :: d_step { at[me] == ASKING_FOR_A_STEP && TRAINS(0) && TRAINS(1) && holds[0] == 1 && holds[1] == 1 ->
     holds[0] = 2; holds[1] = 2; segment[AT(0, 2)] = DAMAGED; segment[AT(1, 2)] = DAMAGED; at[me] = SAVING }
  :: d_step { at[me] == ASKING_FOR_A_STEP && !(TRAINS(0) && TRAINS(1)) -> try_again() }
  :: d_step { at[me] == SAVING && HAVE_LEARNT && master_key == me ->
     checkpoint = 2; master_step[me] = 2; at[me] = ANNOUNCING }
  :: d_step { at[me] == SAVING && !(TRAINS(0) && TRAINS(1) && holds[0] == 2 && holds[1] == 2) -> try_again() }
  :: d_step { at[me] != TO_BE_ELECTED && at[me] != FINISHED && at[me] != DEAD && master_key != me && !MASTER_NOT_COMPARED -> at[me] = DEAD }
  :: at[me] == FINISHED || at[me] == DEAD -> break
  :: at[me] == TO_BE_ELECTED && at[OTHER(me - 1) + 1] == FINISHED -> break
  od
}

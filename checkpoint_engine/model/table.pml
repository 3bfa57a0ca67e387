/* The switch protocol's tables, made from checkpoint_engine/tandem_checkpoint/switch/protocol.py. Not written by hand:
 *   python -m tests.tandem_checkpoint.model.promela_table > checkpoint_engine/model/table.pml
 */

#define S_STARTING 0
#define S_IDLE 1
#define S_DRAINING 2
#define S_EXPORTING 3
#define S_OFFLOADING 4
#define S_TAKING 5
#define S_RELOADING 6
#define S_TRAINING 7
#define S_PREPARING 8
#define S_GATHERING 9
#define S_LOADING 10
#define S_SERVING 11
#define S_REVIVING 12
#define S_ABORTING 13
#define S_STOPPING 14
#define S_FAILED 15
#define S_REJOINING 16
#define S_ENDED 17
#define E_INFER 0
#define E_TRAIN 1
#define E_STALE 2
#define E_DONE 3
#define E_ERROR 4
#define E_DEADLINE 5
#define E_CHILD_ENDED 6
#define E_CRASH_LOOP 7
#define E_LEASE_LOST 8
#define E_TERMINATED 9
#define A_NOTHING 0
#define A_KEEP_ON 1
#define A_DRAIN 2
#define A_EXPORT 3
#define A_OFFLOAD 4
#define A_TAKE 5
#define A_RELOAD 6
#define A_TRAIN 7
#define A_PREPARE 8
#define A_GATHER 9
#define A_LOAD 10
#define A_SERVE 11
#define A_REVIVE 12
#define A_ABORT 13
#define A_STOP 14
#define A_RESTART 15
#define A_FAIL 16
#define A_REJOIN 17
#define A_END 18
#define A_NOT_IN_TABLE 19

#define NUM_ROWS 198

inline look_up_train(s, e) {
  if
  :: s == S_STARTING ->
     if
     :: e == E_INFER -> action = A_KEEP_ON; next = S_STARTING; ROW(0)
     :: e == E_TRAIN -> action = A_KEEP_ON; next = S_STARTING; ROW(1)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_STARTING; ROW(2)
     :: e == E_DONE -> action = A_NOTHING; next = S_IDLE; ROW(3)
     :: e == E_ERROR -> action = A_END; next = S_ENDED; ROW(4)
     :: e == E_CHILD_ENDED -> action = A_RESTART; next = S_STARTING; ROW(5)
     :: e == E_CRASH_LOOP -> action = A_END; next = S_ENDED; ROW(6)
     :: e == E_LEASE_LOST -> action = A_RESTART; next = S_STARTING; ROW(7)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(8)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_IDLE ->
     if
     :: e == E_INFER -> action = A_DRAIN; next = S_DRAINING; ROW(9)
     :: e == E_TRAIN -> action = A_TAKE; next = S_TAKING; ROW(10)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_IDLE; ROW(11)
     :: e == E_CHILD_ENDED -> action = A_RESTART; next = S_STARTING; ROW(12)
     :: e == E_CRASH_LOOP -> action = A_END; next = S_ENDED; ROW(13)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(14)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(15)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_DRAINING ->
     if
     :: e == E_INFER -> action = A_KEEP_ON; next = S_DRAINING; ROW(16)
     :: e == E_TRAIN -> action = A_KEEP_ON; next = S_DRAINING; ROW(17)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_DRAINING; ROW(18)
     :: e == E_DONE -> action = A_EXPORT; next = S_EXPORTING; ROW(19)
     :: e == E_ERROR -> action = A_FAIL; next = S_FAILED; ROW(20)
     :: e == E_DEADLINE -> action = A_FAIL; next = S_FAILED; ROW(21)
     :: e == E_CHILD_ENDED -> action = A_RESTART; next = S_STARTING; ROW(22)
     :: e == E_CRASH_LOOP -> action = A_END; next = S_ENDED; ROW(23)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(24)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(25)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_EXPORTING ->
     if
     :: e == E_INFER -> action = A_KEEP_ON; next = S_EXPORTING; ROW(26)
     :: e == E_TRAIN -> action = A_KEEP_ON; next = S_EXPORTING; ROW(27)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_EXPORTING; ROW(28)
     :: e == E_DONE -> action = A_OFFLOAD; next = S_OFFLOADING; ROW(29)
     :: e == E_ERROR -> action = A_FAIL; next = S_FAILED; ROW(30)
     :: e == E_DEADLINE -> action = A_FAIL; next = S_FAILED; ROW(31)
     :: e == E_CHILD_ENDED -> action = A_RESTART; next = S_STARTING; ROW(32)
     :: e == E_CRASH_LOOP -> action = A_END; next = S_ENDED; ROW(33)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(34)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(35)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_OFFLOADING ->
     if
     :: e == E_INFER -> action = A_KEEP_ON; next = S_OFFLOADING; ROW(36)
     :: e == E_TRAIN -> action = A_KEEP_ON; next = S_OFFLOADING; ROW(37)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_OFFLOADING; ROW(38)
     :: e == E_DONE -> action = A_NOTHING; next = S_IDLE; ROW(39)
     :: e == E_ERROR -> action = A_FAIL; next = S_FAILED; ROW(40)
     :: e == E_DEADLINE -> action = A_FAIL; next = S_FAILED; ROW(41)
     :: e == E_CHILD_ENDED -> action = A_RESTART; next = S_STARTING; ROW(42)
     :: e == E_CRASH_LOOP -> action = A_END; next = S_ENDED; ROW(43)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(44)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(45)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_TAKING ->
     if
     :: e == E_INFER -> action = A_DRAIN; next = S_DRAINING; ROW(46)
     :: e == E_TRAIN -> action = A_TAKE; next = S_TAKING; ROW(47)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_TAKING; ROW(48)
     :: e == E_DONE -> action = A_RELOAD; next = S_RELOADING; ROW(49)
     :: e == E_ERROR -> action = A_FAIL; next = S_FAILED; ROW(50)
     :: e == E_DEADLINE -> action = A_FAIL; next = S_FAILED; ROW(51)
     :: e == E_CHILD_ENDED -> action = A_RESTART; next = S_STARTING; ROW(52)
     :: e == E_CRASH_LOOP -> action = A_END; next = S_ENDED; ROW(53)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(54)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(55)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_RELOADING ->
     if
     :: e == E_INFER -> action = A_KEEP_ON; next = S_RELOADING; ROW(56)
     :: e == E_TRAIN -> action = A_KEEP_ON; next = S_RELOADING; ROW(57)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_RELOADING; ROW(58)
     :: e == E_DONE -> action = A_TRAIN; next = S_TRAINING; ROW(59)
     :: e == E_ERROR -> action = A_FAIL; next = S_FAILED; ROW(60)
     :: e == E_DEADLINE -> action = A_FAIL; next = S_FAILED; ROW(61)
     :: e == E_CHILD_ENDED -> action = A_RESTART; next = S_STARTING; ROW(62)
     :: e == E_CRASH_LOOP -> action = A_END; next = S_ENDED; ROW(63)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(64)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(65)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_TRAINING ->
     if
     :: e == E_INFER -> action = A_DRAIN; next = S_DRAINING; ROW(66)
     :: e == E_TRAIN -> action = A_TAKE; next = S_TAKING; ROW(67)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_TRAINING; ROW(68)
     :: e == E_CHILD_ENDED -> action = A_RESTART; next = S_STARTING; ROW(69)
     :: e == E_CRASH_LOOP -> action = A_END; next = S_ENDED; ROW(70)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(71)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(72)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_FAILED ->
     if
     :: e == E_INFER -> action = A_DRAIN; next = S_DRAINING; ROW(73)
     :: e == E_TRAIN -> action = A_TAKE; next = S_TAKING; ROW(74)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_FAILED; ROW(75)
     :: e == E_CHILD_ENDED -> action = A_RESTART; next = S_STARTING; ROW(76)
     :: e == E_CRASH_LOOP -> action = A_END; next = S_ENDED; ROW(77)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(78)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(79)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_REJOINING ->
     if
     :: e == E_INFER -> action = A_KEEP_ON; next = S_REJOINING; ROW(80)
     :: e == E_TRAIN -> action = A_KEEP_ON; next = S_REJOINING; ROW(81)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_REJOINING; ROW(82)
     :: e == E_DONE -> action = A_NOTHING; next = S_IDLE; ROW(83)
     :: e == E_ERROR -> action = A_END; next = S_ENDED; ROW(84)
     :: e == E_CHILD_ENDED -> action = A_KEEP_ON; next = S_REJOINING; ROW(85)
     :: e == E_CRASH_LOOP -> action = A_KEEP_ON; next = S_REJOINING; ROW(86)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(87)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(88)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: else -> action = A_NOT_IN_TABLE
  fi
}

inline look_up_rollout(s, e) {
  if
  :: s == S_STARTING ->
     if
     :: e == E_INFER -> action = A_KEEP_ON; next = S_STARTING; ROW(89)
     :: e == E_TRAIN -> action = A_KEEP_ON; next = S_STARTING; ROW(90)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_STARTING; ROW(91)
     :: e == E_DONE -> action = A_NOTHING; next = S_IDLE; ROW(92)
     :: e == E_ERROR -> action = A_END; next = S_ENDED; ROW(93)
     :: e == E_CHILD_ENDED -> action = A_RESTART; next = S_STARTING; ROW(94)
     :: e == E_CRASH_LOOP -> action = A_END; next = S_ENDED; ROW(95)
     :: e == E_LEASE_LOST -> action = A_RESTART; next = S_STARTING; ROW(96)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(97)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_IDLE ->
     if
     :: e == E_INFER -> action = A_PREPARE; next = S_PREPARING; ROW(98)
     :: e == E_TRAIN -> action = A_ABORT; next = S_ABORTING; ROW(99)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_IDLE; ROW(100)
     :: e == E_CHILD_ENDED -> action = A_KEEP_ON; next = S_IDLE; ROW(101)
     :: e == E_CRASH_LOOP -> action = A_KEEP_ON; next = S_IDLE; ROW(102)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(103)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(104)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_TAKING ->
     if
     :: e == E_INFER -> action = A_PREPARE; next = S_PREPARING; ROW(105)
     :: e == E_TRAIN -> action = A_ABORT; next = S_ABORTING; ROW(106)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_TAKING; ROW(107)
     :: e == E_DONE -> action = A_LOAD; next = S_LOADING; ROW(108)
     :: e == E_ERROR -> action = A_FAIL; next = S_FAILED; ROW(109)
     :: e == E_DEADLINE -> action = A_FAIL; next = S_FAILED; ROW(110)
     :: e == E_CHILD_ENDED -> action = A_PREPARE; next = S_PREPARING; ROW(111)
     :: e == E_CRASH_LOOP -> action = A_FAIL; next = S_FAILED; ROW(112)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(113)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(114)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_PREPARING ->
     if
     :: e == E_INFER -> action = A_PREPARE; next = S_PREPARING; ROW(115)
     :: e == E_TRAIN -> action = A_ABORT; next = S_ABORTING; ROW(116)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_PREPARING; ROW(117)
     :: e == E_DONE -> action = A_GATHER; next = S_GATHERING; ROW(118)
     :: e == E_ERROR -> action = A_FAIL; next = S_FAILED; ROW(119)
     :: e == E_DEADLINE -> action = A_FAIL; next = S_FAILED; ROW(120)
     :: e == E_CHILD_ENDED -> action = A_PREPARE; next = S_PREPARING; ROW(121)
     :: e == E_CRASH_LOOP -> action = A_FAIL; next = S_FAILED; ROW(122)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(123)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(124)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_GATHERING ->
     if
     :: e == E_INFER -> action = A_PREPARE; next = S_PREPARING; ROW(125)
     :: e == E_TRAIN -> action = A_ABORT; next = S_ABORTING; ROW(126)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_GATHERING; ROW(127)
     :: e == E_DONE -> action = A_TAKE; next = S_TAKING; ROW(128)
     :: e == E_ERROR -> action = A_FAIL; next = S_FAILED; ROW(129)
     :: e == E_DEADLINE -> action = A_FAIL; next = S_FAILED; ROW(130)
     :: e == E_CHILD_ENDED -> action = A_PREPARE; next = S_PREPARING; ROW(131)
     :: e == E_CRASH_LOOP -> action = A_FAIL; next = S_FAILED; ROW(132)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(133)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(134)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_LOADING ->
     if
     :: e == E_INFER -> action = A_PREPARE; next = S_PREPARING; ROW(135)
     :: e == E_TRAIN -> action = A_ABORT; next = S_ABORTING; ROW(136)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_LOADING; ROW(137)
     :: e == E_DONE -> action = A_SERVE; next = S_SERVING; ROW(138)
     :: e == E_ERROR -> action = A_FAIL; next = S_FAILED; ROW(139)
     :: e == E_DEADLINE -> action = A_FAIL; next = S_FAILED; ROW(140)
     :: e == E_CHILD_ENDED -> action = A_PREPARE; next = S_PREPARING; ROW(141)
     :: e == E_CRASH_LOOP -> action = A_FAIL; next = S_FAILED; ROW(142)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(143)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(144)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_SERVING ->
     if
     :: e == E_INFER -> action = A_PREPARE; next = S_PREPARING; ROW(145)
     :: e == E_TRAIN -> action = A_ABORT; next = S_ABORTING; ROW(146)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_SERVING; ROW(147)
     :: e == E_CHILD_ENDED -> action = A_REVIVE; next = S_REVIVING; ROW(148)
     :: e == E_CRASH_LOOP -> action = A_FAIL; next = S_FAILED; ROW(149)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(150)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(151)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_REVIVING ->
     if
     :: e == E_INFER -> action = A_PREPARE; next = S_PREPARING; ROW(152)
     :: e == E_TRAIN -> action = A_ABORT; next = S_ABORTING; ROW(153)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_REVIVING; ROW(154)
     :: e == E_DONE -> action = A_SERVE; next = S_SERVING; ROW(155)
     :: e == E_ERROR -> action = A_FAIL; next = S_FAILED; ROW(156)
     :: e == E_DEADLINE -> action = A_FAIL; next = S_FAILED; ROW(157)
     :: e == E_CHILD_ENDED -> action = A_REVIVE; next = S_REVIVING; ROW(158)
     :: e == E_CRASH_LOOP -> action = A_FAIL; next = S_FAILED; ROW(159)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(160)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(161)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_ABORTING ->
     if
     :: e == E_INFER -> action = A_KEEP_ON; next = S_ABORTING; ROW(162)
     :: e == E_TRAIN -> action = A_KEEP_ON; next = S_ABORTING; ROW(163)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_ABORTING; ROW(164)
     :: e == E_DONE -> action = A_STOP; next = S_STOPPING; ROW(165)
     :: e == E_ERROR -> action = A_FAIL; next = S_FAILED; ROW(166)
     :: e == E_DEADLINE -> action = A_FAIL; next = S_FAILED; ROW(167)
     :: e == E_CHILD_ENDED -> action = A_KEEP_ON; next = S_ABORTING; ROW(168)
     :: e == E_CRASH_LOOP -> action = A_KEEP_ON; next = S_ABORTING; ROW(169)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(170)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(171)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_STOPPING ->
     if
     :: e == E_INFER -> action = A_KEEP_ON; next = S_STOPPING; ROW(172)
     :: e == E_TRAIN -> action = A_KEEP_ON; next = S_STOPPING; ROW(173)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_STOPPING; ROW(174)
     :: e == E_DONE -> action = A_NOTHING; next = S_IDLE; ROW(175)
     :: e == E_ERROR -> action = A_FAIL; next = S_FAILED; ROW(176)
     :: e == E_DEADLINE -> action = A_FAIL; next = S_FAILED; ROW(177)
     :: e == E_CHILD_ENDED -> action = A_KEEP_ON; next = S_STOPPING; ROW(178)
     :: e == E_CRASH_LOOP -> action = A_KEEP_ON; next = S_STOPPING; ROW(179)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(180)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(181)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_FAILED ->
     if
     :: e == E_INFER -> action = A_PREPARE; next = S_PREPARING; ROW(182)
     :: e == E_TRAIN -> action = A_ABORT; next = S_ABORTING; ROW(183)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_FAILED; ROW(184)
     :: e == E_CHILD_ENDED -> action = A_KEEP_ON; next = S_FAILED; ROW(185)
     :: e == E_CRASH_LOOP -> action = A_KEEP_ON; next = S_FAILED; ROW(186)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(187)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(188)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: s == S_REJOINING ->
     if
     :: e == E_INFER -> action = A_KEEP_ON; next = S_REJOINING; ROW(189)
     :: e == E_TRAIN -> action = A_KEEP_ON; next = S_REJOINING; ROW(190)
     :: e == E_STALE -> action = A_KEEP_ON; next = S_REJOINING; ROW(191)
     :: e == E_DONE -> action = A_NOTHING; next = S_IDLE; ROW(192)
     :: e == E_ERROR -> action = A_END; next = S_ENDED; ROW(193)
     :: e == E_CHILD_ENDED -> action = A_KEEP_ON; next = S_REJOINING; ROW(194)
     :: e == E_CRASH_LOOP -> action = A_KEEP_ON; next = S_REJOINING; ROW(195)
     :: e == E_LEASE_LOST -> action = A_REJOIN; next = S_REJOINING; ROW(196)
     :: e == E_TERMINATED -> action = A_END; next = S_ENDED; ROW(197)
     :: else -> action = A_NOT_IN_TABLE
     fi
  :: else -> action = A_NOT_IN_TABLE
  fi
}

#define HEEDS_train_INFER(s) ((s) == S_IDLE || (s) == S_TAKING || (s) == S_TRAINING || (s) == S_FAILED)
#define HEEDS_train_TRAIN(s) ((s) == S_IDLE || (s) == S_TAKING || (s) == S_TRAINING || (s) == S_FAILED)
#define HEEDS_train_STALE(s) (false)
#define HEEDS_train_DONE(s) ((s) == S_STARTING || (s) == S_DRAINING || (s) == S_EXPORTING || (s) == S_OFFLOADING || (s) == S_TAKING || (s) == S_RELOADING || (s) == S_REJOINING)
#define HEEDS_train_ERROR(s) ((s) == S_STARTING || (s) == S_DRAINING || (s) == S_EXPORTING || (s) == S_OFFLOADING || (s) == S_TAKING || (s) == S_RELOADING || (s) == S_REJOINING)
#define HEEDS_train_DEADLINE(s) ((s) == S_DRAINING || (s) == S_EXPORTING || (s) == S_OFFLOADING || (s) == S_TAKING || (s) == S_RELOADING)
#define HEEDS_train_CHILD_ENDED(s) ((s) == S_STARTING || (s) == S_IDLE || (s) == S_DRAINING || (s) == S_EXPORTING || (s) == S_OFFLOADING || (s) == S_TAKING || (s) == S_RELOADING || (s) == S_TRAINING || (s) == S_FAILED)
#define HEEDS_train_CRASH_LOOP(s) ((s) == S_STARTING || (s) == S_IDLE || (s) == S_DRAINING || (s) == S_EXPORTING || (s) == S_OFFLOADING || (s) == S_TAKING || (s) == S_RELOADING || (s) == S_TRAINING || (s) == S_FAILED)
#define HEEDS_train_LEASE_LOST(s) ((s) == S_STARTING || (s) == S_IDLE || (s) == S_DRAINING || (s) == S_EXPORTING || (s) == S_OFFLOADING || (s) == S_TAKING || (s) == S_RELOADING || (s) == S_TRAINING || (s) == S_FAILED || (s) == S_REJOINING)
#define HEEDS_train_TERMINATED(s) ((s) == S_STARTING || (s) == S_IDLE || (s) == S_DRAINING || (s) == S_EXPORTING || (s) == S_OFFLOADING || (s) == S_TAKING || (s) == S_RELOADING || (s) == S_TRAINING || (s) == S_FAILED || (s) == S_REJOINING)

#define HEEDS_rollout_INFER(s) ((s) == S_IDLE || (s) == S_TAKING || (s) == S_PREPARING || (s) == S_GATHERING || (s) == S_LOADING || (s) == S_SERVING || (s) == S_REVIVING || (s) == S_FAILED)
#define HEEDS_rollout_TRAIN(s) ((s) == S_IDLE || (s) == S_TAKING || (s) == S_PREPARING || (s) == S_GATHERING || (s) == S_LOADING || (s) == S_SERVING || (s) == S_REVIVING || (s) == S_FAILED)
#define HEEDS_rollout_STALE(s) (false)
#define HEEDS_rollout_DONE(s) ((s) == S_STARTING || (s) == S_TAKING || (s) == S_PREPARING || (s) == S_GATHERING || (s) == S_LOADING || (s) == S_REVIVING || (s) == S_ABORTING || (s) == S_STOPPING || (s) == S_REJOINING)
#define HEEDS_rollout_ERROR(s) ((s) == S_STARTING || (s) == S_TAKING || (s) == S_PREPARING || (s) == S_GATHERING || (s) == S_LOADING || (s) == S_REVIVING || (s) == S_ABORTING || (s) == S_STOPPING || (s) == S_REJOINING)
#define HEEDS_rollout_DEADLINE(s) ((s) == S_TAKING || (s) == S_PREPARING || (s) == S_GATHERING || (s) == S_LOADING || (s) == S_REVIVING || (s) == S_ABORTING || (s) == S_STOPPING)
#define HEEDS_rollout_CHILD_ENDED(s) ((s) == S_STARTING || (s) == S_TAKING || (s) == S_PREPARING || (s) == S_GATHERING || (s) == S_LOADING || (s) == S_SERVING || (s) == S_REVIVING)
#define HEEDS_rollout_CRASH_LOOP(s) ((s) == S_STARTING || (s) == S_TAKING || (s) == S_PREPARING || (s) == S_GATHERING || (s) == S_LOADING || (s) == S_SERVING || (s) == S_REVIVING)
#define HEEDS_rollout_LEASE_LOST(s) ((s) == S_STARTING || (s) == S_IDLE || (s) == S_TAKING || (s) == S_PREPARING || (s) == S_GATHERING || (s) == S_LOADING || (s) == S_SERVING || (s) == S_REVIVING || (s) == S_ABORTING || (s) == S_STOPPING || (s) == S_FAILED || (s) == S_REJOINING)
#define HEEDS_rollout_TERMINATED(s) ((s) == S_STARTING || (s) == S_IDLE || (s) == S_TAKING || (s) == S_PREPARING || (s) == S_GATHERING || (s) == S_LOADING || (s) == S_SERVING || (s) == S_REVIVING || (s) == S_ABORTING || (s) == S_STOPPING || (s) == S_FAILED || (s) == S_REJOINING)

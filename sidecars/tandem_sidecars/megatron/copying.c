/* Copy pieces of weights and sum them in one pass: every byte is read from memory once and written past the cache once.

The sum is XXH3 of 64 bits without a seed, written from its specification (xxHash's doc/xxhash_spec.md, "XXH3 Algorithm
Description (for large inputs)"): pieces have more than 240 bytes. It takes a piece in order, but a copy that runs along
one stretch of memory leaves the core waiting for the next page and the next line. So a thread goes along several pieces
at once, some stripes of each in turn.

Compiled for one instruction set, AVX2 or AVX-512, as the compiler's options say. */

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

enum {
    STRIPE = 64,       /* bytes that are summed at once */
    BLOCK_STRIPES = 16, /* so many, then the sums are scrambled */
    LANES = 4,         /* pieces that a thread goes along at once */
    TURN = 4,          /* stripes of a lane, then the next lane has its turn */
    AHEAD = 512,       /* bytes from what is read to what is asked for ahead */
};

static const uint64_t PRIME32_1 = 0x9E3779B1u, PRIME32_2 = 0x85EBCA77u, PRIME32_3 = 0xC2B2AE3Du;
static const uint64_t PRIME64_1 = 0x9E3779B185EBCA87u, PRIME64_2 = 0xC2B2AE3D27D4EB4Fu;
static const uint64_t PRIME64_3 = 0x165667B19E3779F9u, PRIME64_4 = 0x85EBCA77C2B2AE63u;
static const uint64_t PRIME64_5 = 0x27D4EB2F165667C5u, PRIME_MX1 = 0x165667919E3779F9u;
static const uint8_t SECRET[192] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d, 0xe9,
    0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78,
    0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6,
    0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8, 0xa8, 0xfa, 0x76, 0x3f,
    0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31,
    0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff,
    0xfa, 0x13, 0x63, 0xeb, 0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f,
    0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};
enum { SCRAMBLE_SECRET = 128, LAST_SECRET = 121, MERGE_SECRET = 11 };

/* Eight numbers of 64 bits: a stripe, or the sums. */
#ifdef __AVX512F__
typedef __m512i Eight;
static inline Eight load(const void *from) { return _mm512_loadu_si512(from); }
static inline void store(void *to, Eight eight) { _mm512_storeu_si512(to, eight); }
static inline void store_past_cache(void *to, Eight eight) { _mm512_stream_si512((__m512i *)to, eight); }

static inline Eight accumulated(Eight sums, Eight stripe, const uint8_t *secret) {
    const Eight value = _mm512_xor_si512(stripe, load(secret));
    const Eight product = _mm512_mul_epu32(value, _mm512_srli_epi64(value, 32));
    return _mm512_add_epi64(_mm512_add_epi64(sums, _mm512_shuffle_epi32(stripe, 0x4E)), product);
}

static inline Eight scrambled(Eight sums) {
    const Eight prime = _mm512_set1_epi64((long long)PRIME32_1);
    const Eight mixed = _mm512_xor_si512(_mm512_xor_si512(sums, _mm512_srli_epi64(sums, 47)), load(SECRET + SCRAMBLE_SECRET));
    const Eight high = _mm512_slli_epi64(_mm512_mul_epu32(_mm512_srli_epi64(mixed, 32), prime), 32);
    return _mm512_add_epi64(_mm512_mul_epu32(mixed, prime), high);
}
#else
typedef struct {
    __m256i half[2];
} Eight;

static inline Eight load(const void *from) {
    const __m256i *halves = from;
    return (Eight){{_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)}};
}

static inline void store(void *to, Eight eight) {
    _mm256_storeu_si256((__m256i *)to, eight.half[0]);
    _mm256_storeu_si256((__m256i *)to + 1, eight.half[1]);
}

static inline void store_past_cache(void *to, Eight eight) {
    _mm256_stream_si256((__m256i *)to, eight.half[0]);
    _mm256_stream_si256((__m256i *)to + 1, eight.half[1]);
}

static inline Eight accumulated(Eight sums, Eight stripe, const uint8_t *secret) {
    const Eight secrets = load(secret);
    for (int i = 0; i < 2; i++) {
        const __m256i value = _mm256_xor_si256(stripe.half[i], secrets.half[i]);
        const __m256i product = _mm256_mul_epu32(value, _mm256_srli_epi64(value, 32));
        const __m256i swapped = _mm256_shuffle_epi32(stripe.half[i], 0x4E);
        sums.half[i] = _mm256_add_epi64(_mm256_add_epi64(sums.half[i], swapped), product);
    }
    return sums;
}

static inline Eight scrambled(Eight sums) {
    const Eight secrets = load(SECRET + SCRAMBLE_SECRET);
    const __m256i prime = _mm256_set1_epi64x((long long)PRIME32_1);
    for (int i = 0; i < 2; i++) {
        const __m256i shifted = _mm256_xor_si256(sums.half[i], _mm256_srli_epi64(sums.half[i], 47));
        const __m256i mixed = _mm256_xor_si256(shifted, secrets.half[i]);
        const __m256i high = _mm256_slli_epi64(_mm256_mul_epu32(_mm256_srli_epi64(mixed, 32), prime), 32);
        sums.half[i] = _mm256_add_epi64(_mm256_mul_epu32(mixed, prime), high);
    }
    return sums;
}
#endif

/* Rows of one length, equally far apart on either side. */
struct box {
    const uint8_t *source;
    uint8_t *target;
    uint64_t num_rows, row_bytes, source_stride, target_stride;
};

/* One piece on its way. */
struct lane {
    Eight sums;
    uint8_t held[2 * STRIPE]; /* the last stripe that was summed, and behind it what is not summed yet */
    uint64_t num_held;        /* bytes that are not summed yet */
    uint64_t num_stripes;     /* to be summed still, but the last one */
    uint64_t place;           /* of the next stripe in its block */
    const struct box *box, *end;
    uint64_t row, left;       /* of the box; bytes of the row */
    const uint8_t *source;
    uint8_t *target;
    uint64_t num_bytes;
    uint64_t *digest;
};

static void begin_row(struct lane *lane) {
    lane->source = lane->box->source + lane->row * lane->box->source_stride;
    lane->target = lane->box->target + lane->row * lane->box->target_stride;
    lane->left = lane->box->row_bytes;
}

static void begin(struct lane *lane, const struct box *first, const struct box *end, uint64_t *digest) {
    const uint64_t sums[8] = {PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1};
    memset(lane, 0, sizeof *lane);
    lane->sums = load(sums);
    lane->box = first;
    lane->end = end;
    lane->digest = digest;
    for (const struct box *box = first; box < end; box++)
        lane->num_bytes += box->num_rows * box->row_bytes;
    lane->num_stripes = (lane->num_bytes - 1) / STRIPE;
    begin_row(lane);
}

static inline uint64_t folded(uint64_t a, uint64_t b) {
    const unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static void finish(struct lane *lane) {
    uint64_t sums[8], secret[8], digest = lane->num_bytes * PRIME64_1;
    store(sums, accumulated(lane->sums, load(lane->held + lane->num_held), SECRET + LAST_SECRET));
    memcpy(secret, SECRET + MERGE_SECRET, sizeof secret);
    for (int i = 0; i < 8; i += 2)
        digest += folded(sums[i] ^ secret[i], sums[i + 1] ^ secret[i + 1]);
    digest = (digest ^ (digest >> 37)) * PRIME_MX1;
    *lane->digest = digest ^ (digest >> 32);
}

static inline __attribute__((always_inline)) void sum_stripe(Eight *sums, uint64_t *place, Eight stripe) {
    *sums = accumulated(*sums, stripe, SECRET + 8 * *place);
    if (++*place == BLOCK_STRIPES) {
        *sums = scrambled(*sums);
        *place = 0;
    }
}

/* How many stripes can be copied whole and past the cache, up to the end of the row. */
static uint64_t num_whole(const struct lane *lane) {
    const uint64_t in_row = lane->left / STRIPE;
    if (lane->num_held || (uintptr_t)lane->target % STRIPE)
        return 0;
    return in_row < lane->num_stripes ? in_row : lane->num_stripes;
}

/* Copy and sum what is left of a row where stripes do not fit; a piece's last stripe is only held. */
static void finish_row(struct lane *lane) {
    while (lane->left) {
        const uint64_t room = STRIPE - lane->num_held, num_bytes = room < lane->left ? room : lane->left;
        memcpy(lane->held + STRIPE + lane->num_held, lane->source, num_bytes);
        memcpy(lane->target, lane->source, num_bytes);
        lane->num_held += num_bytes;
        lane->source += num_bytes;
        lane->target += num_bytes;
        lane->left -= num_bytes;
        if (lane->num_held == STRIPE && lane->num_stripes) {
            sum_stripe(&lane->sums, &lane->place, load(lane->held + STRIPE));
            memcpy(lane->held, lane->held + STRIPE, STRIPE);
            lane->num_stripes--;
            lane->num_held = 0;
        }
    }
}

/* Go on behind a row; return whether there is more of the piece. */
static int next_row(struct lane *lane) {
    if (++lane->row == lane->box->num_rows) {
        lane->row = 0;
        if (++lane->box == lane->end)
            return 0;
    }
    begin_row(lane);
    return 1;
}

/* Copy and sum so many whole stripes of each lane, in turns. */
static inline __attribute__((always_inline)) void copy_stripes(struct lane *lanes, const int num_lanes, uint64_t num_stripes) {
    Eight sums[LANES];
    uint64_t place[LANES];
    for (int i = 0; i < num_lanes; i++) {
        sums[i] = lanes[i].sums;
        place[i] = lanes[i].place;
    }
    for (uint64_t done = 0; done < num_stripes; done += TURN) {
        const uint64_t turn = num_stripes - done < TURN ? num_stripes - done : TURN;
#pragma GCC unroll 4
        for (int i = 0; i < num_lanes; i++) {
            const uint8_t *source = lanes[i].source + done * STRIPE;
            uint8_t *target = lanes[i].target + done * STRIPE;
            for (uint64_t stripe = 0; stripe < turn; stripe++, source += STRIPE, target += STRIPE) {
                _mm_prefetch((const char *)source + AHEAD, _MM_HINT_T0);
                const Eight data = load(source);
                store_past_cache(target, data);
                sum_stripe(&sums[i], &place[i], data);
            }
        }
    }
    for (int i = 0; i < num_lanes; i++) {
        const uint64_t num_bytes = num_stripes * STRIPE;
        lanes[i].sums = sums[i];
        lanes[i].place = place[i];
        lanes[i].num_stripes -= num_stripes;
        lanes[i].source += num_bytes;
        lanes[i].target += num_bytes;
        lanes[i].left -= num_bytes;
        memcpy(lanes[i].held, lanes[i].source - STRIPE, STRIPE);
    }
}

/* Copy pieces and tell their sums, until none is left of those that all callers share.

boxes: of all pieces, piece after piece; ends: by piece, one past its last box; next: the first piece that nobody has
taken; digests: by piece. A piece has more than 240 bytes, and no box is empty. */
void copy_pieces(const struct box *boxes, const uint64_t *ends, uint64_t num_pieces, uint64_t *next, uint64_t *digests) {
    struct lane lanes[LANES];
    int num_lanes = 0, is_more = 1;
    for (;;) {
        while (is_more && num_lanes < LANES) {
            const uint64_t piece = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
            is_more = piece < num_pieces;
            if (is_more)
                begin(&lanes[num_lanes++], boxes + (piece ? ends[piece - 1] : 0), boxes + ends[piece], digests + piece);
        }
        if (!num_lanes)
            break;
        uint64_t num_stripes = UINT64_MAX;
        for (int i = 0; i < num_lanes; i++) {
            const uint64_t whole = num_whole(&lanes[i]);
            num_stripes = whole < num_stripes ? whole : num_stripes;
        }
        switch (num_stripes ? num_lanes : 0) {
        case 4: copy_stripes(lanes, 4, num_stripes); break;
        case 3: copy_stripes(lanes, 3, num_stripes); break;
        case 2: copy_stripes(lanes, 2, num_stripes); break;
        case 1: copy_stripes(lanes, 1, num_stripes); break;
        }
        for (int i = num_lanes - 1; i >= 0; i--) {
            if (num_whole(&lanes[i]))
                continue;
            finish_row(&lanes[i]);
            if (!next_row(&lanes[i])) {
                finish(&lanes[i]);
                lanes[i] = lanes[--num_lanes];
            }
        }
    }
    _mm_sfence(); /* what was written past the cache is there before the caller says so */
}

/* Numbers, vectors of them, and memory. */

#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#ifdef DOUBLE
typedef double real;
typedef int64_t whole; /* of the same size */
#define IS_DOUBLE 1
#else
typedef float real;
typedef int32_t whole;
#define IS_DOUBLE 0
#endif

#if defined(__AVX512F__)
#define BYTES 64
#define MAX_ROWS 12 /* of a tile two vectors wide: 24 sums of 32 registers */
#elif defined(__AVX__)
#define BYTES 32
#define MAX_ROWS 6
#elif defined(__aarch64__)
#define BYTES 16
#define MAX_ROWS 12
#else
#define BYTES 16
#define MAX_ROWS 6
#endif
#define WIDTH ((int)(BYTES / sizeof(real)))

typedef real vec __attribute__((vector_size(BYTES)));
typedef whole wholes __attribute__((vector_size(BYTES)));
typedef real loose __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));
#define INLINE static inline __attribute__((always_inline))

/* Functions of two vectors that are one instruction, for which C has no operator. */
#if defined(__AVX512F__)
#include <immintrin.h>
#define NATIVE(NAME, X, Y)                                                    \
    (IS_DOUBLE ? (vec)_mm512_##NAME##_pd((__m512d)(X), (__m512d)(Y)) \
               : (vec)_mm512_##NAME##_ps((__m512)(X), (__m512)(Y)))
#elif defined(__AVX__)
#include <immintrin.h>
#define NATIVE(NAME, X, Y)                                                    \
    (IS_DOUBLE ? (vec)_mm256_##NAME##_pd((__m256d)(X), (__m256d)(Y)) \
               : (vec)_mm256_##NAME##_ps((__m256)(X), (__m256)(Y)))
#endif

INLINE long min_of(long a, long b) { return a < b ? a : b; }
INLINE long max_of(long a, long b) { return a > b ? a : b; }

/* Split `count` things among `shares`, and return the first of share k. */
INLINE long cut(long count, long shares, long k) { return count * k / shares; }

/* Vectors, and the last ones of a row, which are not full. */

INLINE vec load(const real *x, int count) {
    if (count == WIDTH) return (vec) * (const loose *)x;
    vec v = {0};
    memcpy(&v, x, count * sizeof(real));
    return v;
}

INLINE void store(real *x, vec v, int count) {
    if (count == WIDTH)
        *(loose *)x = v;
    else
        memcpy(x, &v, count * sizeof(real));
}

INLINE vec choose(wholes yes, vec x, vec y) { /* by a comparison, whose bits are all 1 or 0 */
    return (vec)((yes & (wholes)x) | (~yes & (wholes)y));
}

/* Undefined numbers stay. */
#ifdef NATIVE
INLINE vec at_most(vec x, real bound) { return NATIVE(min, bound + (vec){0}, x); }
INLINE vec at_least(vec x, real bound) { return NATIVE(max, bound + (vec){0}, x); }
#else
INLINE vec at_most(vec x, real bound) { return choose(x > bound, bound + (vec){0}, x); }
INLINE vec at_least(vec x, real bound) { return choose(x < bound, bound + (vec){0}, x); }
#endif

/* Fresh memory comes in pages of 4 KiB, each at the price of a fault; ask for pages of 2 MiB. */
static void ask_for_large_pages(void *memory, long bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 1 << 21, start = ((uintptr_t)memory + page - 1) & ~(page - 1);
    const uintptr_t end = ((uintptr_t)memory + bytes) & ~(page - 1);
    if (end > start) madvise((void *)start, end - start, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

static void *memory(long numbers) {
    const long bytes = max_of(numbers, 1) * (long)sizeof(real);
    void *place = NULL;
    if (posix_memalign(&place, 64, bytes)) return NULL;
    if (bytes >= 1 << 22) ask_for_large_pages(place, bytes);
    return place;
}

#endif

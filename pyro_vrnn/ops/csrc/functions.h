/* The cells' functions, to the last digits of their type. */

#ifndef FUNCTIONS_H
#define FUNCTIONS_H

#include "vectors.h"

/* e^x - 1 by x = n log 2 + r: 2^n (e^r - 1) + (2^n - 1), the series of e^r - 1 to full precision.
 */
INLINE vec expm1_vec(vec x) {
    const real shift = IS_DOUBLE ? 6755399441055744.0 : 12582912.0; /* 1.5 * 2^52, 1.5 * 2^23 */
    const real high = IS_DOUBLE ? 6.93147180369123816490e-01 : 0.693359375;
    const real low = IS_DOUBLE ? 1.90821492927058770002e-10 : -2.12194440e-4;
    vec n = x * (real)1.4426950408889634 + shift;
    n = n - shift;
    vec r = (x - n * high) - n * low;
    vec p = {0};
    for (int k = IS_DOUBLE ? 13 : 7; k > 1; k--) {
        double factorial = 1;
        for (int j = 2; j <= k; j++) factorial *= j;
        p = p * r + (real)(1 / factorial);
    }
    p = p * r * r + r;
    wholes power = __builtin_convertvector(n, wholes);
    vec scale = (vec)((power + (IS_DOUBLE ? 1023 : 127)) << (IS_DOUBLE ? 52 : 23)); /* 2^n */
    return scale * p + (scale - 1);
}

INLINE vec sigmoid(vec x) {
    const real most = IS_DOUBLE ? 700 : 87;
    return 1 / (2 + expm1_vec(at_least(at_most(-x, most), -most)));
}

INLINE vec tanh_vec(vec x) {
    const real most = IS_DOUBLE ? 40 : 20;
    vec e = expm1_vec(2 * at_least(at_most(x, most), -most));
    return e / (e + 2);
}

#endif

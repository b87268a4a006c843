/* Vectors of LANES numbers, which is to be defined before, and what the libraries do with them alike. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t whole __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE lanes load(const float *at) { return *(const lanes *)at; }
INLINE void store(float *at, lanes x) { *(lanes *)at = x; }

INLINE float sum(lanes x) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
}

/* e to the power of x, which is not above 0: to the last bit or two, and 0 where that is not a normal number. */
INLINE lanes exponential(lanes x) {
    const whole in_range = x > -87.0f;
    x = (lanes)((whole)x & in_range);
    const whole twos = __builtin_convertvector(x * 1.44269504f - 0.5f, whole);
    const lanes power = __builtin_convertvector(twos, lanes);
    const lanes rest = x - power * 0.693359375f + power * 2.12194440e-4f;
    lanes sum = 1.9875691500e-4f * rest + 1.3981999507e-3f;
    sum = sum * rest + 8.3334519073e-3f;
    sum = sum * rest + 4.1665795894e-2f;
    sum = sum * rest + 1.6666665459e-1f;
    sum = sum * rest + 5.0000001201e-1f;
    sum = sum * rest * rest + rest + 1.0f;
    return (lanes)((whole)(sum * (lanes)((twos + 127) << 23)) & in_range);
}

/* GELU of x, and its slope. The normal distribution by Abramowitz and Stegun 7.1.26, to 1.5e-7; its power of e is that
 * of the density. */
INLINE lanes gelu_and_slope(lanes x, lanes *slope) {
    const whole negative = x < 0.0f;
    const lanes size = (lanes)((whole)x & 0x7fffffff), density = exponential(size * size * -0.5f);
    const lanes t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * size);
    lanes beyond = 1.061405429f * t - 1.453152027f;
    beyond = beyond * t + 1.421413741f;
    beyond = beyond * t - 0.284496736f;
    beyond = (beyond * t + 0.254829592f) * t * density * 0.5f;
    const lanes share = (lanes)(((whole)beyond & negative) | ((whole)(1.0f - beyond) & ~negative));
    *slope = share + x * density * 0.39894228f;
    return x * share;
}

/* A row over its standard deviation, its mean taken off; returns one over the deviation. */
INLINE float normed(float *row, int64_t width, float eps) {
    const int64_t even = width / LANES * LANES;
    lanes total = {0}, left = {0}, squares = {0};
    for (int64_t j = 0; j < even; j += LANES) total += load(row + j);
    float mean = sum(total), rest = 0, square = 0;
    for (int64_t j = even; j < width; j++) mean += row[j];
    mean /= (float)width;
    for (int64_t j = 0; j < even; j += LANES) {
        const lanes x = load(row + j) - mean;
        left += x, squares += x * x;
        store(row + j, x);
    }
    for (int64_t j = even; j < width; j++) row[j] -= mean, rest += row[j], square += row[j] * row[j];
    /* What rounding has left of the mean, which the scale would bring up where all numbers are nearly the same. */
    mean = (sum(left) + rest) / (float)width;
    const float variance = (sum(squares) + square) / (float)width - mean * mean;
    const float scale = 1 / sqrtf((variance < 0 ? 0 : variance) + eps); /* no number stays none */
    for (int64_t j = 0; j < even; j += LANES) store(row + j, (load(row + j) - mean) * scale);
    for (int64_t j = even; j < width; j++) row[j] = (row[j] - mean) * scale;
    return scale;
}

/* What is wrong with one answer key + (1 + gain) LN(update) of the mlp state, and where it comes from: update becomes the
 * gradient of itself of step times the squared difference from value; that of gain is added to by_gain. */
INLINE void mistake(const float *key, const float *value, const float *gain, float step, float *update, float *by_gain,
                    int64_t width, float eps) {
    const float scale = normed(update, width, eps);
    lanes mean = {0}, along = {0};
    for (int64_t j = 0; j < width; j += LANES) {
        const lanes x = load(update + j), share = 1.0f + load(gain + j);
        const lanes error = (load(key + j) + share * x - load(value + j)) * step;
        store(by_gain + j, load(by_gain + j) + error * x);
        mean += error * share;
        along += error * share * x;
    }
    const float off = sum(mean) / (float)width, turned = sum(along) / (float)width;
    for (int64_t j = 0; j < width; j += LANES) {
        const lanes x = load(update + j), share = 1.0f + load(gain + j);
        const lanes error = (load(key + j) + share * x - load(value + j)) * step;
        store(update + j, (error * share - off - x * turned) * scale);
    }
}

/* update becomes query + (1 + gain) LN(update). */
INLINE void answered(const float *query, const float *gain, float *update, int64_t width, float eps) {
    normed(update, width, eps);
    for (int64_t j = 0; j < width; j += LANES)
        store(update + j, load(query + j) + (1.0f + load(gain + j)) * load(update + j));
}

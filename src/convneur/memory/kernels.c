/* The memory in inference, and what is around it: what `kernels.py` and `mlp_kernels.py` call; they say why.
 *
 * All arrays are float32 and contiguous. n tokens of a width D, which is a multiple of LANES. `room` has `share` numbers
 * for each of `threads`.
 *
 * Threads are those of PyTorch: what OpenMP asks for is found where PyTorch has it, in the process.
 */
#include <omp.h>

enum {
    LANES = 8,
    BLOCK = 128 /* tokens that are added up by themselves, so that sums of many keep their precision */
};
#include "lanes.h"

/* What this was made from: kernels.py loads no library of another source. */
const char *convneur_source(void) { return CONVNEUR_SOURCE; }

/* tokens (batch, n, D) -> unit, as large: over the root of their mean square, an image's mean taken off if `center`.
 * share: D. */
void convneur_unit(const float *tokens, float *unit, float *room, int threads, int64_t batch, int64_t n, int64_t width,
                   int center, float eps) {
#pragma omp parallel for num_threads(threads) if (batch > 1)
    for (int64_t image = 0; image < batch; image++) {
        const float *from = tokens + image * n * width;
        float *to = unit + image * n * width, *mean = room + omp_get_thread_num() * width;
        memset(mean, 0, width * sizeof(float));
        for (int64_t first = 0; center && first < n; first += BLOCK)
            for (int64_t j = 0; j < width; j += LANES) {
                lanes some = {0};
                for (int64_t t = first; t < n && t < first + BLOCK; t++) some += load(from + t * width + j);
                store(mean + j, load(mean + j) + some);
            }
        for (int64_t j = 0; j < width; j += LANES) store(mean + j, load(mean + j) / (float)n);
        for (int64_t t = 0; t < n; t++, from += width, to += width) {
            lanes squares = {0};
            for (int64_t j = 0; j < width; j += LANES) {
                lanes x = load(from + j) - load(mean + j);
                squares += x * x;
                store(to + j, x);
            }
            const float scale = 1 / sqrtf(sum(squares) / (float)width + eps);
            for (int64_t j = 0; j < width; j += LANES) store(to + j, load(to + j) * scale);
        }
    }
}

/* read, tokens (n, D) -> contexts = rms(read) gain, carried = contexts + rms(tokens) carry_gain, all of one size. */
void convneur_contexts(const float *read, const float *tokens, const float *gain, const float *carry_gain,
                       float *contexts, float *carried, int threads, int64_t n, int64_t width, float eps) {
#pragma omp parallel for num_threads(threads) if (n * width > 32768)
    for (int64_t t = 0; t < n; t++) {
        const float *x = read + t * width, *y = tokens + t * width;
        lanes of_x = {0}, of_y = {0};
        for (int64_t j = 0; j < width; j += LANES) {
            of_x += load(x + j) * load(x + j);
            of_y += load(y + j) * load(y + j);
        }
        const float scale = 1 / sqrtf(sum(of_x) / (float)width + eps);
        const float carry_scale = 1 / sqrtf(sum(of_y) / (float)width + eps);
        for (int64_t j = 0; j < width; j += LANES) {
            const lanes context = load(x + j) * scale * load(gain + j);
            store(contexts + t * width + j, context);
            store(carried + t * width + j, context + load(y + j) * carry_scale * load(carry_gain + j));
        }
    }
}

/* Where a pixel of `size` lies between two tokens of `grid` along one side, as torch's bilinear interpolation has it. */
INLINE float between(int64_t pixel, int64_t size, int64_t grid, int64_t *first, int64_t *second) {
    float place = ((float)pixel + 0.5f) * ((float)grid / (float)size) - 0.5f;
    place = place > 0 ? place : 0;
    *first = (int64_t)place < grid - 1 ? (int64_t)place : grid - 1;
    *second = *first + (*first < grid - 1);
    return place - (float)*first;
}

/* One row of a grid between two of its rows, in numbers. */
INLINE void blend(const float *first, const float *second, float weight, float *to, int64_t numbers) {
    for (int64_t j = 0; j < numbers; j += LANES) {
        lanes x = load(first + j);
        store(to + j, x + weight * (load(second + j) - x));
    }
}

/* x, local, out (batch, H, W, C); gate, shift (batch, h, w, C), brought up bilinearly: out = x + shift + local gate.
 * There may be no shift. share: 2 w C. */
void convneur_join(const float *x, const float *local, const float *gate, const float *shift, float *out, float *room,
                   int64_t share, int threads, int64_t batch, int64_t height, int64_t width, int64_t channels,
                   int64_t grid_height, int64_t grid_width) {
    const int64_t numbers = grid_width * channels;
#pragma omp parallel for num_threads(threads) collapse(2)
    for (int64_t image = 0; image < batch; image++)
        for (int64_t row = 0; row < height; row++) {
            int64_t first, second;
            const float down = between(row, height, grid_height, &first, &second);
            const int64_t at = (image * height + row) * width * channels;
            float *gates = room + omp_get_thread_num() * share, *shifts = gates + numbers;
            first = (image * grid_height + first) * numbers, second = (image * grid_height + second) * numbers;
            blend(gate + first, gate + second, down, gates, numbers);
            if (shift) blend(shift + first, shift + second, down, shifts, numbers);
            for (int64_t column = 0; column < width; column++) {
                const float along = between(column, width, grid_width, &first, &second);
                const float *left = gates + first * channels, *right = gates + second * channels;
                const int64_t pixel = at + column * channels;
                for (int64_t j = 0; j < channels; j += LANES) {
                    const lanes opened = load(left + j) + along * (load(right + j) - load(left + j));
                    lanes sum = load(x + pixel + j) + load(local + pixel + j) * opened;
                    if (shift) {
                        const lanes near = load(left + numbers + j);
                        sum += near + along * (load(right + numbers + j) - near);
                    }
                    store(out + pixel + j, sum);
                }
            }
        }
}

/* x -> hidden = GELU(x), and x becomes its slope if that is wanted; `numbers` of each, a multiple of LANES. */
void convneur_gelu(float *x, float *hidden, int with_slope, int threads, int64_t numbers) {
#pragma omp parallel for num_threads(threads) if (numbers > 8192)
    for (int64_t i = 0; i < numbers; i += LANES) {
        lanes slope;
        store(hidden + i, gelu_and_slope(load(x + i), &slope));
        if (with_slope) store(x + i, slope);
    }
}

/* What is wrong with the answers keys + (1 + gain) LN(update), and where it comes from. For each of `groups`, an image's
 * head: keys, values, update (n, D), steps (n), gain and by_gain (D). update becomes the gradient of itself of the sum
 * over tokens of steps times the mean of (answer - values)^2; by_gain that of gain. share: D. */
void convneur_mlp_error(const float *keys, const float *values, const float *steps, const float *gain, float *update,
                        float *by_gain, float *room, int threads, int64_t groups, int64_t n, int64_t width, float eps) {
    const float both = 2 / (float)width; /* of the square, and of the mean over channels */
#pragma omp parallel for num_threads(threads) if (groups > 1)
    for (int64_t group = 0; group < groups; group++) {
        const int64_t at = group * n * width;
        const float *gains = gain + group * width;
        float *total = by_gain + group * width, *some = room + omp_get_thread_num() * width;
        memset(total, 0, width * sizeof(float));
        for (int64_t first = 0; first < n; first += BLOCK) {
            memset(some, 0, width * sizeof(float));
            for (int64_t t = first; t < n && t < first + BLOCK; t++) {
                const float *key = keys + at + t * width, *value = values + at + t * width;
                mistake(key, value, gains, both * steps[group * n + t], update + at + t * width, some, width, eps);
            }
            for (int64_t j = 0; j < width; j += LANES) store(total + j, load(total + j) + load(some + j));
        }
    }
}

/* answers = queries + (1 + gain) LN(update): queries (groups, n, D), gain (groups, D), update as queries; it becomes the
 * answers. */
void convneur_mlp_answer(const float *queries, const float *gain, float *update, int threads, int64_t groups, int64_t n,
                         int64_t width, float eps) {
#pragma omp parallel for num_threads(threads) collapse(2) if (groups * n * width > 32768)
    for (int64_t group = 0; group < groups; group++)
        for (int64_t t = 0; t < n; t++) {
            const int64_t at = (group * n + t) * width;
            answered(queries + at, gain + group * width, update + at, width, eps);
        }
}

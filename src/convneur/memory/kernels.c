/* The memory, and what is around it: what `kernels.py`, `mlp_kernels.py` and `training.py` call; they say why.
 *
 * All arrays are float32 and contiguous. n tokens of a width D, which is a multiple of LANES; H heads of d = D / H, which
 * may be any number: matrices of one head have rows of `wide` numbers, the next multiple, and zeros in what is too many.
 * `room` has `share` numbers for each of `threads`.
 *
 * Threads are those of PyTorch: what OpenMP asks for is found where PyTorch has it, in the process.
 */
#include <omp.h>

enum {
    LANES = 8,
    ROWS = 4,   /* by two columns: eight sums in the sixteen registers of AVX2; AVX-512 gains nothing */
    BLOCK = 128 /* tokens that are added up by themselves, so that sums of many keep their precision */
};
#include "lanes.h"

/* What this was made from: kernels.py loads no library of another source. */
const char *convneur_source(void) { return CONVNEUR_SOURCE; }

INLINE float sigmoid(float x) { return 1 / (1 + expf(-x)); }

/* `columns` times LANES columns of `rows` rows of `product`: both are constants where it is called, so that the sums
 * stay in registers. */
INLINE void tile(const float *a, int64_t down, int64_t along, const float *b, int64_t b_row, float *out,
                 int64_t out_row, int64_t depth, float alpha, int add, const int rows, const int columns) {
    lanes sums[ROWS][2];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) sums[i][j] = (lanes){0};
    for (int64_t k = 0; k < depth; k++)
        for (int j = 0; j < columns; j++) {
            lanes of_b = load(b + k * b_row + j * LANES);
            for (int i = 0; i < rows; i++) sums[i][j] += a[i * down + k * along] * of_b;
        }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) {
            float *at = out + i * out_row + j * LANES;
            store(at, add ? load(at) + alpha * sums[i][j] : alpha * sums[i][j]);
        }
}

/* out (height x width) = [out +] alpha a (height x depth) b (depth x width). The next row of a is `down` further, the
 * next column `along`; width is a multiple of LANES. */
INLINE void product(const float *a, int64_t down, int64_t along, const float *b, int64_t b_row, float *out,
                    int64_t out_row, int64_t height, int64_t width, int64_t depth, float alpha, int add) {
    for (int64_t i = 0; i < height;) {
        const int64_t rows = height - i >= ROWS ? ROWS : 1;
        for (int64_t j = 0; j < width;) {
            const int64_t columns = width - j >= 2 * LANES ? 2 : 1;
            const float *left = a + i * down, *right = b + j;
            float *to = out + i * out_row + j;
            if (rows == ROWS && columns == 2)
                tile(left, down, along, right, b_row, to, out_row, depth, alpha, add, ROWS, 2);
            else if (rows == ROWS)
                tile(left, down, along, right, b_row, to, out_row, depth, alpha, add, ROWS, 1);
            else if (columns == 2)
                tile(left, down, along, right, b_row, to, out_row, depth, alpha, add, 1, 2);
            else
                tile(left, down, along, right, b_row, to, out_row, depth, alpha, add, 1, 1);
            j += columns * LANES;
        }
        i += rows;
    }
}

/* `numbers` of a row and zeros up to `wide`. */
INLINE void padded(const float *row, float *to, int64_t numbers, int64_t wide) {
    memcpy(to, row, numbers * sizeof(float));
    memset(to + numbers, 0, (wide - numbers) * sizeof(float));
}

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

/* `height` rows that are `row` apart, of `numbers` each, as rows of `wide`, zeros behind. */
INLINE void gathered(const float *rows, int64_t row, float *to, int64_t height, int64_t numbers, int64_t wide) {
    for (int64_t i = 0; i < height; i++) padded(rows + i * row, to + i * wide, numbers, wide);
}

/* A matrix (d, wide) the other way round. */
INLINE void turned(const float *from, float *to, int64_t head, int64_t wide) {
    memset(to, 0, head * wide * sizeof(float));
    for (int64_t i = 0; i < head; i++)
        for (int64_t j = 0; j < head; j++) to[j * wide + i] = from[i * wide + j];
}

/* What a write makes of one head's tokens before it adds them up. */
typedef struct {
    float *keys, *error;            /* (n, wide): normalised, and what M_0 answers less the values */
    float *inverse, *opening;       /* (n): what the keys were multiplied with, and the share of the largest step */
    float *initial;                 /* (d, wide) */
    float kept;                     /* share of M_0 that is left */
} written;

/* of (n, row): an image's keys, values, logits of the rates and queries, from this head's keys on; of the logits, those
 * of the step and of what forgets. Returns what is left of room. */
static float *write_head(written *w, const float *of, const float *opening, const float *forgetting, const float *initial,
                         float *room, int64_t n, int64_t row, int64_t width, int64_t head, float opening_bias,
                         float forgetting_bias, float key_eps) {
    const int64_t wide = (head + LANES - 1) / LANES * LANES;
    double forgotten = 0;
    w->keys = room, w->error = w->keys + n * wide, w->inverse = w->error + n * wide, w->opening = w->inverse + n;
    w->initial = w->opening + n, w->kept = 1;
    gathered(initial, head, w->initial, head, head, wide);
    gathered(of, row, w->keys, n, head, wide);
    for (int64_t t = 0; t < n; t++) {
        float *key = w->keys + t * wide;
        lanes squares = {0};
        for (int64_t j = 0; j < wide; j += LANES) squares += load(key + j) * load(key + j);
        w->inverse[t] = 1 / sqrtf(sum(squares) + key_eps);
        for (int64_t j = 0; j < wide; j += LANES) store(key + j, load(key + j) * w->inverse[t]);
        w->opening[t] = sigmoid(opening[t * row] + opening_bias);
        if (forgetting) forgotten += forgetting[t * row];
    }
    product(w->keys, wide, 1, w->initial, wide, w->error, wide, n, wide, head, 1, 0);
    for (int64_t t = 0; t < n; t++)
        for (int64_t j = 0; j < head; j++) w->error[t * wide + j] -= of[t * row + width + j];
    if (forgetting) w->kept = sigmoid(-((float)(forgotten / (double)n) + forgetting_bias));
    return w->initial + head * wide;
}

/* of (batch, n, 3 D + rates): keys, values, logits of the rates (all heads of one after the other, the opening first and
 * what forgets, if `decay`, last) and queries. bias (rates), initial (H, d, d). Makes memory (batch, H, d, d) and what it
 * answers to the queries, (batch, n, D). share: 4 n wide + 2 n + 2 d wide. */
void convneur_answer(const float *of, const float *bias, const float *initial, float *memory, float *answers, float *room,
                     int64_t share, int threads, int64_t batch, int64_t n, int64_t width, int64_t heads, int64_t rates,
                     int decay, float step, float key_eps) {
    const int64_t head = width / heads, wide = (head + LANES - 1) / LANES * LANES, row = 3 * width + rates;
#pragma omp parallel for num_threads(threads) collapse(2)
    for (int64_t image = 0; image < batch; image++)
        for (int64_t h = 0; h < heads; h++) {
            const float *keys = of + image * n * row + h * head, *logits = of + image * n * row + 2 * width;
            const int64_t last = rates - heads + h;
            written w;
            float *left = write_head(&w, keys, logits + h, decay ? logits + last : 0, initial + h * head * head,
                                     room + omp_get_thread_num() * share, n, row, width, head, bias[h], bias[last], key_eps);
            float *made = left, *queries = made + head * wide, *found = queries + n * wide;
            for (int64_t t = 0; t < n; t++)
                for (int64_t j = 0; j < wide; j += LANES)
                    store(w.error + t * wide + j, load(w.error + t * wide + j) * w.opening[t]);
            for (int64_t i = 0; i < head * wide; i += LANES) store(made + i, load(w.initial + i) * w.kept);
            for (int64_t t = 0; t < n; t += BLOCK)
                product(w.keys + t * wide, 1, wide, w.error + t * wide, wide, made, wide, head, wide,
                        n - t < BLOCK ? n - t : BLOCK, -step, 1);
            gathered(keys + 2 * width + rates, row, queries, n, head, wide);
            product(queries, wide, 1, made, wide, found, wide, n, wide, head, 1, 0);
            for (int64_t i = 0; i < head; i++)
                memcpy(memory + ((image * heads + h) * head + i) * head, made + i * wide, head * sizeof(float));
            for (int64_t t = 0; t < n; t++)
                memcpy(answers + (image * n + t) * width + h * head, found + t * wide, head * sizeof(float));
        }
}

/* The gradients of what `convneur_answer` was given, from that of its answers, grad (batch, n, D): by_of as `of`, and
 * by_initial (batch, H, d, d), to be added up over images. share: 8 n wide + 2 n + 5 d wide. */
void convneur_answer_gradient(const float *of, const float *bias, const float *initial, const float *memory,
                              const float *grad, float *by_of, float *by_initial, float *room, int64_t share, int threads,
                              int64_t batch, int64_t n, int64_t width, int64_t heads, int64_t rates, int decay, float step,
                              float key_eps) {
    const int64_t head = width / heads, wide = (head + LANES - 1) / LANES * LANES, row = 3 * width + rates;
#pragma omp parallel for num_threads(threads) collapse(2)
    for (int64_t image = 0; image < batch; image++)
        for (int64_t h = 0; h < heads; h++) {
            const int64_t at = image * n * row + h * head, rate = image * n * row + 2 * width + h, last = rates - heads;
            const int64_t matrix = (image * heads + h) * head * head, small = head * wide;
            written w;
            float *left = write_head(&w, of + at, of + rate, decay ? of + rate + last : 0, initial + h * head * head,
                                     room + omp_get_thread_num() * share, n, row, width, head, bias[h], bias[last + h],
                                     key_eps);
            float *queries = left, *answers = queries + n * wide, *by_queries = answers + n * wide;
            float *taught = by_queries + n * wide, *by_keys = taught + n * wide, *stepped = by_keys + n * wide;
            float *made = stepped + n * wide, *back = made + small, *by_memory = back + small, *by_start = by_memory + small;
            float by_kept = 0;
            gathered(of + at + 2 * width + rates, row, queries, n, head, wide);
            gathered(grad + image * n * width + h * head, width, answers, n, head, wide);

            /* The read: answers = queries memory */
            gathered(memory + matrix, head, made, head, head, wide);
            turned(made, back, head, wide);
            product(answers, wide, 1, back, wide, by_queries, wide, n, wide, head, 1, 0);
            memset(by_memory, 0, small * sizeof(float));
            for (int64_t t = 0; t < n; t += BLOCK)
                product(queries + t * wide, 1, wide, answers + t * wide, wide, by_memory, wide, head, wide,
                        n - t < BLOCK ? n - t : BLOCK, 1, 1);

            /* The write: memory = kept initial - step keys' (opening error), error = keys initial - values */
            product(w.keys, wide, 1, by_memory, wide, taught, wide, n, wide, head, 1, 0);
            for (int64_t t = 0; t < n; t++) {
                const float size = -step * w.opening[t];
                lanes along = {0};
                for (int64_t j = t * wide; j < (t + 1) * wide; j += LANES) {
                    along += load(taught + j) * load(w.error + j);
                    store(taught + j, load(taught + j) * size); /* that of the error, from here on */
                    store(stepped + j, load(w.error + j) * size);
                }
                by_of[rate + t * row] = sum(along) * size * (1 - w.opening[t]);
            }
            turned(by_memory, back, head, wide);
            product(stepped, wide, 1, back, wide, by_keys, wide, n, wide, head, 1, 0);
            turned(w.initial, back, head, wide);
            product(taught, wide, 1, back, wide, by_keys, wide, n, wide, head, 1, 1);
            for (int64_t i = 0; i < small; i++) by_kept += by_memory[i] * w.initial[i];
            for (int64_t i = 0; i < small; i += LANES) store(by_start + i, load(by_memory + i) * w.kept);
            for (int64_t t = 0; t < n; t += BLOCK)
                product(w.keys + t * wide, 1, wide, taught + t * wide, wide, by_start, wide, head, wide,
                        n - t < BLOCK ? n - t : BLOCK, 1, 1);
            for (int64_t i = 0; i < head; i++)
                memcpy(by_initial + matrix + i * head, by_start + i * wide, head * sizeof(float));

            const float forgetting = by_kept * w.kept * (w.kept - 1) / (float)n;
            for (int64_t t = 0; t < n; t++) {
                float *key = w.keys + t * wide, *by_key = by_keys + t * wide, *to = by_of + at + t * row;
                lanes along = {0};
                for (int64_t j = 0; j < wide; j += LANES) along += load(key + j) * load(by_key + j);
                const float same = sum(along);
                for (int64_t j = 0; j < head; j++) {
                    to[j] = (by_key[j] - key[j] * same) * w.inverse[t];
                    to[width + j] = -taught[t * wide + j];
                    to[2 * width + rates + j] = by_queries[t * wide + j];
                }
                /* There is no momentum within one chunk. */
                for (int64_t r = h + heads; r < rates; r += heads) by_of[rate - h + r + t * row] = 0;
                if (decay) by_of[rate + last + t * row] = forgetting;
            }
        }
}

/* The CPU kernel of ops/gated_residual.py. Arrays are float32 and contiguous; feature maps are (batch, height, width,
 * channels). Threads are PyTorch's: the OpenMP symbols are resolved in the process. */
#include <omp.h>

enum { LANES = 8 };
#include "vec.h"

/* Where a pixel of `size` lies between two tokens of `grid` along one side, as torch's bilinear interpolation has it. */
INLINE float between(int64_t pixel, int64_t size, int64_t grid, int64_t *first, int64_t *second) {
    float place = ((float)pixel + 0.5f) * ((float)grid / (float)size) - 0.5f;
    place = place > 0 ? place : 0;
    *first = (int64_t)place < grid - 1 ? (int64_t)place : grid - 1;
    *second = *first + (*first < grid - 1);
    return place - (float)*first;
}

/* One row of the upsampled grid from two rows of the grid. */
INLINE void blend(const float *first, const float *second, float weight, float *to, int64_t numbers) {
    for (int64_t j = 0; j < numbers; j += LANES) {
        const vec x = load(first + j);
        store(to + j, x + weight * (load(second + j) - x));
    }
}

/* out = x + up(shift) + local up(gate). x, local, out (batch, H, W, C); gate, shift (batch, h, w, C); shift may be null.
 * C is a multiple of LANES. workspace: 2 w C floats for each thread. */
void convneur_gated_residual(const float *x, const float *local, const float *gate, const float *shift, float *out,
                             float *workspace, int64_t threads, int64_t batch, int64_t height, int64_t width,
                             int64_t channels, int64_t grid_height, int64_t grid_width) {
    const int64_t numbers = grid_width * channels;
#pragma omp parallel for num_threads(threads) collapse(2)
    for (int64_t image = 0; image < batch; image++)
        for (int64_t row = 0; row < height; row++) {
            int64_t first, second;
            const float down = between(row, height, grid_height, &first, &second);
            const int64_t at = (image * height + row) * width * channels;
            float *gates = workspace + omp_get_thread_num() * 2 * numbers, *shifts = gates + numbers;
            first = (image * grid_height + first) * numbers, second = (image * grid_height + second) * numbers;
            blend(gate + first, gate + second, down, gates, numbers);
            if (shift) blend(shift + first, shift + second, down, shifts, numbers);
            for (int64_t column = 0; column < width; column++) {
                const float along = between(column, width, grid_width, &first, &second);
                const float *left = gates + first * channels, *right = gates + second * channels;
                const int64_t pixel = at + column * channels;
                for (int64_t j = 0; j < channels; j += LANES) {
                    const vec open = load(left + j) + along * (load(right + j) - load(left + j));
                    vec total = load(x + pixel + j) + load(local + pixel + j) * open;
                    if (shift) {
                        const vec near = load(left + numbers + j);
                        total += near + along * (load(right + numbers + j) - near);
                    }
                    store(out + pixel + j, total);
                }
            }
        }
}

// The matrix product of bfloat16 in two ways, and what all heads need of it. Included by tiles.cpp alone.
#pragma once

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace {
constexpr int PAIRS = 32;  // computed together: the rows of a matrix product

// --- the matrix product, in two ways ----------------------------------------------------------------------------------------------
//
// multiply: c[row][column] = sum_k x[row][k] * w[column][k] of 32 rows and 32 columns; a step is 32 of k. x0 and x1 are rows 0 to 15 and 16
// to 31, each [16 rows][32] of a step, x_step numbers further those of the next; w0 and w1 are columns, each [16 pairs of k][16 columns][2].
// c has rows of `stride` numbers.

// Eight rows by two vectors of 16 columns at a time, for any processor with AVX512_BF16.
struct Vectors {
  static void begin() {}
  static void end() {}
  static inline void multiply(const uint16_t* x0, const uint16_t* x1, long x_step, const uint16_t* w0, const uint16_t* w1, long w_step,
                              int steps, float* c, long stride) {
    for (int first = 0; first < PAIRS; first += 8) {
      const uint16_t* x = (first < 16 ? x0 : x1) + first % 16 * 32;
      __m512 sums[8][2];
      for (auto& sum : sums) sum[0] = sum[1] = _mm512_setzero_ps();
      for (int k = 0; k < steps; k++)
        for (int pair = 0; pair < 16; pair++) {
          const __m512bh low = (__m512bh)_mm512_loadu_si512(w0 + k * w_step + 32 * pair);
          const __m512bh high = (__m512bh)_mm512_loadu_si512(w1 + k * w_step + 32 * pair);
#pragma GCC unroll 8
          for (int row = 0; row < 8; row++) {
            int two;
            std::memcpy(&two, x + k * x_step + 32 * row + 2 * pair, sizeof two);
            const __m512bh both = (__m512bh)_mm512_set1_epi32(two);
            sums[row][0] = _mm512_dpbf16_ps(sums[row][0], low, both);
            sums[row][1] = _mm512_dpbf16_ps(sums[row][1], high, both);
          }
        }
      for (int row = 0; row < 8; row++)
        for (int half = 0; half < 2; half++) _mm512_storeu_ps(c + (first + row) * stride + 16 * half, sums[row][half]);
    }
  }
};

#ifdef __AMX_BF16__
struct alignas(64) Config {  // the layout that _tile_loadconfig reads: 8 tiles of 16 rows of 64 bytes
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t width[16] = {};
  uint8_t rows[16] = {};
};

// Two by two tiles of 16 rows and 16 columns, for processors with AMX.
struct Tiles {
  static void begin() {
    Config config;
    for (int tile = 0; tile < 8; tile++) config.width[tile] = 64, config.rows[tile] = 16;
    _tile_loadconfig(&config);
  }
  static void end() { _tile_release(); }
  static inline void multiply(const uint16_t* x0, const uint16_t* x1, long x_step, const uint16_t* w0, const uint16_t* w1, long w_step,
                              int steps, float* c, long stride) {
    __asm__ volatile("" ::: "memory");  // what is loaded below was written before: GCC's loads of tiles do not say that they read memory
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < steps; k++) {
      _tile_loadd(4, x0 + k * x_step, 64);
      _tile_loadd(6, w0 + k * w_step, 64);
      _tile_loadd(7, w1 + k * w_step, 64);
      _tile_loadd(5, x1 + k * x_step, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, 4 * stride);
    _tile_stored(1, c + 16, 4 * stride);
    _tile_stored(2, c + 16 * stride, 4 * stride);
    _tile_stored(3, c + 16 * stride + 16, 4 * stride);
  }
};
#endif

// All 32 rows x, [inner / 32][32 rows][32], by the 32 columns from 32 * panel on of a matrix that `pack` packed.
template <class Way>
inline void multiply(const uint16_t* x, const uint16_t* W, int panel, int inner, int outer, float* c, long stride) {
  const uint16_t* columns = W + 1024L * panel;
  Way::multiply(x, x + 512, 1024, columns, columns + 512, 32L * outer, inner / 32, c, stride);
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
// Room for numbers, aligned to a cache line.
template <class Number>
std::unique_ptr<Number[], Free> room(long size) {
  return std::unique_ptr<Number[], Free>(static_cast<Number*>(std::aligned_alloc(64, (size * sizeof(Number) + 63) / 64 * 64)));
}

inline __m512i rounded(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// max(0, v) gives v where v is not a number, so that it is seen; max(v, 0) would hide it.
inline __m512 relu(__m512 v) { return _mm512_max_ps(_mm512_setzero_ps(), v); }

}  // namespace

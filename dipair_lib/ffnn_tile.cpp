// The FFNN head over a tile of pairs, on processors with AMX:
//   out[i][j] = sum_g w[g] * relu(bias[g] + sum_h W[g][h] * relu(a[i][h] + b[j][h]))
// The sum a + b and the outer sum are float32; the matrix product reads bfloat16 and adds in float32. Hidden activations never leave the
// caches: 32 pairs are added, cut at zero, rounded, multiplied and reduced before the next 32 begin.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace {
constexpr int PAIRS = 32;  // of one left text, computed together: two tiles of 16 rows

struct alignas(64) Config {  // the layout that _tile_loadconfig reads: 8 tiles of 16 rows of 64 bytes
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t width[16] = {};
  uint8_t rows[16] = {};
};
}  // namespace

extern "C" {

// Asks the kernel once for the right to use tiles; 0 if it was given.
int prepare_process() {
  constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  return static_cast<int>(syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA));
}

// W [outer][hidden] as bfloat16 bits, in the order in which tiles are loaded: [hidden / 32][outer / 16][16 rows][16 columns][2].
void pack(const uint16_t* W, int hidden, int outer, uint16_t* packed) {
  for (int k = 0; k < hidden; k += 32)
    for (int g = 0; g < outer; g += 16)
      for (int row = 0; row < 16; row++)
        for (int column = 0; column < 16; column++)
          for (int half = 0; half < 2; half++) *packed++ = W[(g + column) * hidden + k + 2 * row + half];
}

// a [m][hidden], b [n][hidden] float32; W packed; bias, w [outer]; out [m][stride]. hidden and outer are multiples of 32. hidden <= 1024.
void ffnn_tile(const float* a, const float* b, const uint16_t* W, const float* bias, const float* w, float shift, int m, int n,
               int hidden, int outer, float* out, long stride) {
  Config config;
  for (int tile = 0; tile < 8; tile++) config.width[tile] = 64, config.rows[tile] = 16;
  _tile_loadconfig(&config);
  alignas(64) uint16_t x[1024 / 32][PAIRS][32];  // relu(a + b) in bfloat16, by 32 of the hidden width
  alignas(64) float c[PAIRS][32];
  alignas(64) __m512 sums[PAIRS];
  const __m512 zero = _mm512_setzero_ps();
  const int steps = hidden / 32, columns = outer / 16;
  for (int j = 0; j < n; j += PAIRS) {
    const int real = n - j < PAIRS ? n - j : PAIRS;
    for (int i = 0; i < m; i++) {
      const float* left = a + static_cast<long>(i) * hidden;
      for (int row = 0; row < PAIRS; row++) {
        const float* right = b + static_cast<long>(j + (row < real ? row : real - 1)) * hidden;
        for (int k = 0; k < steps; k++) {
          // max(0, v) gives v where v is not a number, so that it is seen; max(v, 0) would hide it.
          __m512 low = _mm512_max_ps(zero, _mm512_add_ps(_mm512_loadu_ps(left + 32 * k), _mm512_loadu_ps(right + 32 * k)));
          __m512 high = _mm512_max_ps(zero, _mm512_add_ps(_mm512_loadu_ps(left + 32 * k + 16), _mm512_loadu_ps(right + 32 * k + 16)));
          _mm512_store_si512(x[k][row], (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
        sums[row] = zero;
      }
      for (int g = 0; g < columns; g += 2) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int k = 0; k < steps; k++) {
          const uint16_t* tile = W + (static_cast<long>(k) * columns + g) * 512;
          _tile_loadd(4, x[k][0], 64);
          _tile_loadd(6, tile, 64);
          _tile_loadd(7, tile + 512, 64);
          _tile_loadd(5, x[k][16], 64);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(1, 4, 7);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, &c[0][0], 128);
        _tile_stored(1, &c[0][16], 128);
        _tile_stored(2, &c[16][0], 128);
        _tile_stored(3, &c[16][16], 128);
        const __m512 bias0 = _mm512_loadu_ps(bias + 16 * g), bias1 = _mm512_loadu_ps(bias + 16 * g + 16);
        const __m512 w0 = _mm512_loadu_ps(w + 16 * g), w1 = _mm512_loadu_ps(w + 16 * g + 16);
        for (int row = 0; row < PAIRS; row++) {
          __m512 low = _mm512_max_ps(zero, _mm512_add_ps(_mm512_load_ps(&c[row][0]), bias0));
          __m512 high = _mm512_max_ps(zero, _mm512_add_ps(_mm512_load_ps(&c[row][16]), bias1));
          sums[row] = _mm512_fmadd_ps(high, w1, _mm512_fmadd_ps(low, w0, sums[row]));
        }
      }
      float* line = out + i * stride + j;
      for (int row = 0; row < real; row++) line[row] = shift + _mm512_reduce_add_ps(sums[row]);
    }
  }
  _tile_release();
}
}

// Heads over a tile of pairs, on processors with AMX. Matrix products read bfloat16 and add in float32, everything else is float32, and
// what is between two texts never leaves the caches.
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

// The FFNN head: out[i][j] = shift + sum_g w[g] * relu(bias[g] + sum_h W[g][h] * relu(a[i][h] + b[j][h])). 32 pairs are added, cut at zero,
// rounded, multiplied and reduced before the next 32 begin.
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

// MaxSim: out[i][j] = sum_t w[i][t] * max_s <A[i][t], B[j][s]>. 16 tokens of right texts meet 16 of left ones at a time: rows and columns of
// a tile, so that the maximum over a right text's tokens goes down the rows and the sum over a left text's along the columns.
// A: columns of 16 left tokens, [m * left / 16][width / 32][16][16][2]; w [m * left]. B: rows of 16 right tokens, [n * right / 16][width / 32]
// [16][32]. left and right, the tokens of a text, are 1, 2, 4, 8 or multiples of 16; m * left is a multiple of 32, n of 32, width of 32.
void maxsim_tile(const uint16_t* A, const float* w, const uint16_t* B, int m, int n, int left, int right, int width, float* out,
                 long stride) {
  constexpr int TEXTS = 32;  // right texts that every left one meets before the next so many come
  Config config;
  for (int tile = 0; tile < 8; tile++) config.width[tile] = 64, config.rows[tile] = 16;
  _tile_loadconfig(&config);
  alignas(64) float c[2][2][16][16];        // [rows][columns]
  alignas(64) float sums[2][TEXTS][16];     // w times the best, by columns, of each right text
  const int steps = width / 32, columns = m * left / 16, rows = TEXTS * right / 16;
  const int deep = right > 16 ? right / 16 : 1, beside = right < 16 ? 16 / right : 1;  // rows of a text, texts of a row
  const int wide = left > 16 ? left / 16 : 1, each = left < 16 ? left : 16;
  for (int j = 0; j < n; j += TEXTS) {
    for (int g = 0; g < columns; g += 2) {
      const uint16_t* one = A + static_cast<long>(g) * steps * 512;
      const uint16_t* two = one + steps * 512;
      const __m512 weights[2] = {_mm512_loadu_ps(w + 16 * g), _mm512_loadu_ps(w + 16 * g + 16)};
      __m512 best[2];
      for (int r = 0; r < rows; r += 2) {
        const uint16_t* tokens = B + (static_cast<long>(j) * right / 16 + r) * steps * 512;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int k = 0; k < steps; k++) {
          _tile_loadd(4, tokens + 512 * k, 64);
          _tile_loadd(6, one + 512 * k, 64);
          _tile_loadd(7, two + 512 * k, 64);
          _tile_loadd(5, tokens + 512 * (steps + k), 64);
          _tile_dpbf16ps(0, 4, 6);
          _tile_dpbf16ps(1, 4, 7);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, c[0][0], 64);
        _tile_stored(1, c[0][1], 64);
        _tile_stored(2, c[1][0], 64);
        _tile_stored(3, c[1][1], 64);
        for (int row = 0; row < 2; row++)
          for (int column = 0; column < 2; column++)
            for (int text = 0; text < beside; text++) {
              const int height = 16 / beside, place = (r + row) / deep * beside + text;
              __m512 most = _mm512_load_ps(c[row][column][text * height]);
              for (int s = 1; s < height; s++) most = _mm512_max_ps(most, _mm512_load_ps(c[row][column][text * height + s]));
              if ((r + row) % deep) most = _mm512_max_ps(most, best[column]);
              best[column] = most;
              _mm512_store_ps(sums[column][place], _mm512_mul_ps(most, weights[column]));
            }
      }
      for (int column = 0; column < 2; column++)
        for (int first = 0; first < 16; first += each) {
          const int i = (16 * (g + column) + first) / left;
          const __mmask16 own = static_cast<__mmask16>(((1u << each) - 1) << first);
          float* line = out + i * stride + j;
          for (int text = 0; text < TEXTS; text++) {
            const float sum = _mm512_mask_reduce_add_ps(own, _mm512_load_ps(sums[column][text]));
            line[text] = (g + column) % wide ? line[text] + sum : sum;
          }
        }
    }
  }
  _tile_release();
}
}

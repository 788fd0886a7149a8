// Heads over a tile of pairs, on processors that multiply bfloat16. Matrix products read bfloat16 and add in float32, everything else is
// float32, and what is between two texts never leaves the caches.
#include "product.h"

namespace {

// --- FFNN and comparison ----------------------------------------------------------------------------------------------------------

// out[i][j] = shift + sum_g w[g] * relu(add_g + sum_h W[g][h] * x_h): `fill` makes 32 numbers x of a pair in bfloat16, `add` adds to 16 sums
// what the pair has there. 32 pairs are made, multiplied and reduced before the next 32 begin.
template <class Way, class Fill, class Add>
void two_layers(const uint16_t* W, const float* w, float shift, int m, int n, int inner, int outer, float* out, long stride, Fill fill,
                Add add) {
  Way::begin();
  const auto x = room<uint16_t>(PAIRS * inner);
  alignas(64) float c[PAIRS][32];
  alignas(64) __m512 sums[PAIRS];
  for (int j = 0; j < n; j += PAIRS) {
    const int real = std::min(n - j, PAIRS);
    for (int i = 0; i < m; i++) {
      for (int row = 0; row < PAIRS; row++) {
        const int right = j + std::min(row, real - 1);
        for (int k = 0; k < inner / 32; k++) _mm512_store_si512(&x[(k * PAIRS + row) * 32], fill(i, right, k));
        sums[row] = _mm512_setzero_ps();
      }
      for (int panel = 0; panel < outer / 32; panel++) {
        multiply<Way>(x.get(), W, panel, inner, outer, c[0], 32);
        const __m512 w0 = _mm512_loadu_ps(w + 32 * panel), w1 = _mm512_loadu_ps(w + 32 * panel + 16);
        for (int row = 0; row < PAIRS; row++) {
          const int right = j + std::min(row, real - 1);
          const __m512 low = relu(add(_mm512_load_ps(c[row]), i, right, 32 * panel));
          const __m512 high = relu(add(_mm512_load_ps(c[row] + 16), i, right, 32 * panel + 16));
          sums[row] = _mm512_fmadd_ps(high, w1, _mm512_fmadd_ps(low, w0, sums[row]));
        }
      }
      float* line = out + i * stride + j;
      for (int row = 0; row < real; row++) line[row] = shift + _mm512_reduce_add_ps(sums[row]);
    }
  }
  Way::end();
}

// The FFNN head: out[i][j] = shift + sum_g w[g] * relu(bias[g] + sum_h W[g][h] * relu(a[i][h] + b[j][h])).
// a [m][hidden], b [n][hidden] float32; W packed; bias, w [outer]; out [m][stride]. hidden and outer are multiples of 32.
template <class Way>
void ffnn(const float* a, const float* b, const uint16_t* W, const float* bias, const float* w, float shift, int m, int n, int hidden,
          int outer, float* out, long stride) {
  const auto fill = [=](int i, int j, int k) {
    const float *left = a + static_cast<long>(i) * hidden + 32 * k, *right = b + static_cast<long>(j) * hidden + 32 * k;
    return rounded(relu(_mm512_add_ps(_mm512_loadu_ps(left), _mm512_loadu_ps(right))),
                   relu(_mm512_add_ps(_mm512_loadu_ps(left + 16), _mm512_loadu_ps(right + 16))));
  };
  const auto add = [=](__m512 sums, int, int, int at) { return _mm512_add_ps(sums, _mm512_loadu_ps(bias + at)); };
  two_layers<Way>(W, w, shift, m, n, hidden, outer, out, stride, fill, add);
}

// The BiLSTM's comparison: out[i][j] = shift + sum_g w[g] * relu(p[i][g] + q[j][g] + sum_h W[g][h] * x_h), where x is by turns 16 of the
// products a[i] * b[j] and the 16 differences |a[i] - b[j]| of the same places.
// a [m][width], b [n][width], p [m][outer], q [n][outer] float32; W packed, of inner width 2 * width. width is a multiple of 16, outer of 32.
template <class Way>
void compare(const float* a, const float* b, const float* p, const float* q, const uint16_t* W, const float* w, float shift, int m, int n,
             int width, int outer, float* out, long stride) {
  const auto fill = [=](int i, int j, int k) {
    const __m512 left = _mm512_loadu_ps(a + static_cast<long>(i) * width + 16 * k);
    const __m512 right = _mm512_loadu_ps(b + static_cast<long>(j) * width + 16 * k);
    return rounded(_mm512_mul_ps(left, right), _mm512_abs_ps(_mm512_sub_ps(left, right)));
  };
  const auto add = [=](__m512 sums, int i, int j, int at) {
    const float *left = p + static_cast<long>(i) * outer + at, *right = q + static_cast<long>(j) * outer + at;
    return _mm512_add_ps(sums, _mm512_add_ps(_mm512_loadu_ps(left), _mm512_loadu_ps(right)));
  };
  two_layers<Way>(W, w, shift, m, n, 2 * width, outer, out, stride, fill, add);
}

// --- MaxSim -----------------------------------------------------------------------------------------------------------------------

// out[i][j] = sum_t w[i][t] * max_s <A[i][t], B[j][s]>. 16 tokens of right texts meet 16 of left ones at a time: rows and columns of a
// tile, so that the maximum over a right text's tokens goes down the rows and the sum over a left text's along the columns.
// A: columns of 16 left tokens, [m * left / 16][width / 32][16][16][2]; w [m * left]. B: rows of 16 right tokens, [n * right / 16][width / 32]
// [16][32]. left and right, the tokens of a text, are 1, 2, 4, 8 or multiples of 16; m * left is a multiple of 32, n of 32, width of 32.
template <class Way>
void maxsim(const uint16_t* A, const float* w, const uint16_t* B, int m, int n, int left, int right, int width, float* out,
            long stride) {
  constexpr int TEXTS = 32;  // right texts that every left one meets before the next so many come
  Way::begin();
  alignas(64) float c[2][16][2][16];     // [tile][row][tile][column]
  alignas(64) float sums[2][TEXTS][16];  // w times the best, by columns, of each right text
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
        Way::multiply(tokens, tokens + 512 * steps, 512, one, two, 512, steps, c[0][0][0], 32);
        for (int row = 0; row < 2; row++)
          for (int column = 0; column < 2; column++)
            for (int text = 0; text < beside; text++) {
              const int height = 16 / beside, place = (r + row) / deep * beside + text;
              __m512 most = _mm512_load_ps(c[row][text * height][column]);
              for (int s = 1; s < height; s++) most = _mm512_max_ps(most, _mm512_load_ps(c[row][text * height + s][column]));
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
  Way::end();
}

// --- transformer ------------------------------------------------------------------------------------------------------------------

// e^x for x <= 0, off by 3e-7 of itself, but for |x| times 6e-8 from the rounding of x; -infinity gives 0, what is not a number stays.
inline __m512 exp_of(__m512 x) {
  const __m512 t = _mm512_max_ps(_mm512_set1_ps(-150), _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)));
  const __m512 whole = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_mul_ps(_mm512_sub_ps(t, whole), _mm512_set1_ps(0.69314718f));
  __m512 sum = _mm512_set1_ps(1.f / 720);
  for (float term : {1.f / 120, 1.f / 24, 1.f / 6, 1.f / 2, 1.f, 1.f}) sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(term));
  return _mm512_scalef_ps(sum, whole);
}

// x times the share of the normal distribution below x: max(x, 0) less what |x| times the share beyond |x| is, a bump that is gone at 5.4.
// `bump`: 16 polynomials of degree 4, [degree, highest first][16], of the places |x| * BUMPS = 0, 1, ... 15 and half of the way to the next.
constexpr float BUMPS = 2.875f;
inline __m512 gelu(__m512 x, const __m512* bump) {
  const __m512 magic = _mm512_set1_ps(12582912.f);  // 1.5 * 2^23: what is added to it is rounded to a whole number, in the lowest bits
  const __m512 place = _mm512_min_ps(_mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(BUMPS)), _mm512_set1_ps(15.49f));
  const __m512 whole = _mm512_add_ps(place, magic);
  const __m512 rest = _mm512_sub_ps(place, _mm512_sub_ps(whole, magic));
  const __m512i which = _mm512_castps_si512(whole);  // permutexvar reads the lowest four bits
  __m512 sum = _mm512_permutexvar_ps(which, bump[0]);
  for (int term = 1; term < 5; term++) sum = _mm512_fmadd_ps(sum, rest, _mm512_permutexvar_ps(which, bump[term]));
  return _mm512_sub_ps(relu(x), sum);
}

// Which of 16 numbers are within a row of `width`.
inline __mmask16 within(int at, int width) {
  return width - at >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << std::max(0, width - at)) - 1);
}

// Takes the mean of the first `width` of a row off, and returns what the rest is to be multiplied with for variance 1. Zeros stay behind.
inline __m512 centre(float* row, int width, float epsilon) {
  __m512 sum = _mm512_setzero_ps(), squares = sum;
  for (int at = 0; at < width; at += 16) sum = _mm512_add_ps(sum, _mm512_load_ps(row + at));
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / width);
  for (int at = 0; at < width; at += 16) {
    const __m512 rest = _mm512_maskz_sub_ps(within(at, width), _mm512_load_ps(row + at), mean);
    squares = _mm512_fmadd_ps(rest, rest, squares);
    _mm512_store_ps(row + at, rest);
  }
  return _mm512_set1_ps(1 / std::sqrt(_mm512_reduce_add_ps(squares) / width + epsilon));
}

// A head of one layer: its sizes, matrices and vectors. part (of a head's queries, keys and values), wide and ffn are multiples of 32, with
// zeros behind the model's own numbers. Matrices are packed, all else is float32.
struct Layer {
  int heads, part, width, wide, ffn;  // width is the model's, wide that of its rows here
  float scale, epsilon, epsilon_leave, shift;                      // of attention's scores; of both norms; of the result
  const uint16_t *attended, *up, *down;                            // [wide][heads * part], [ffn][wide], [wide][ffn]
  const float *norm_weight, *norm_bias, *up_bias, *down_bias, *w;  // [wide], [wide], [ffn], [wide], [wide]: the last norm's by the output's
  const float* bump;                                               // of `gelu`
};

// The softmax of 32 left texts' scores over their own tokens [heads][left][32] and those of one right text [heads][step][32], to
// [heads][left + right][32]. What mask [right] holds, 0 or -infinity, is added to the latter.
inline void softmax(const Layer& layer, const float* own, const float* other, const float* mask, int left, int right, int step,
                    float* share) {
  const __m512 scale = _mm512_set1_ps(layer.scale);
  for (int head = 0; head < layer.heads; head++, own += left * PAIRS, other += step * PAIRS, share += (left + right) * PAIRS)
    for (int half = 0; half < PAIRS; half += 16) {
      __m512 most = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
      for (int t = 0; t < left; t++) most = _mm512_max_ps(most, _mm512_load_ps(own + t * PAIRS + half));
      for (int t = 0; t < right; t++) {
        const __m512 score = _mm512_fmadd_ps(_mm512_load_ps(other + t * PAIRS + half), scale, _mm512_set1_ps(mask[t]));
        most = _mm512_max_ps(most, score);
        _mm512_store_ps(share + (left + t) * PAIRS + half, score);
      }
      for (int t = 0; t < left + right; t++) {
        const float* score = t < left ? own + t * PAIRS : share + t * PAIRS;
        const __m512 power = exp_of(_mm512_sub_ps(_mm512_load_ps(score + half), most));
        sum = _mm512_add_ps(sum, power);
        _mm512_store_ps(share + t * PAIRS + half, power);
      }
      const __m512 part = _mm512_div_ps(_mm512_set1_ps(1), sum);
      for (int t = 0; t < left + right; t++) {
        float* at = share + t * PAIRS + half;
        _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), part));
      }
    }
}

// The sum of both texts' values [left] and [right][heads * part], each by its share, [heads][left + right] 32 numbers apart; rounded, by 32 into
// the rows x [heads * part / 32][32 rows][32].
inline void attend(const Layer& layer, const float* share, const float* own, const float* other, int left, int right, uint16_t* x) {
  const int inner = layer.heads * layer.part;
  for (int at = 0; at < inner; at += 32) {
    const float* p = share + at / layer.part * (left + right) * PAIRS;
    __m512 low = _mm512_setzero_ps(), high = low;
    const auto add = [&](const float* values, int tokens) {
      for (int t = 0; t < tokens; t++, p += PAIRS) {
        low = _mm512_fmadd_ps(_mm512_set1_ps(*p), _mm512_loadu_ps(values + t * inner + at), low);
        high = _mm512_fmadd_ps(_mm512_set1_ps(*p), _mm512_loadu_ps(values + t * inner + at + 16), high);
      }
    };
    add(own, left);
    add(other, right);
    _mm512_store_si512(x + at * PAIRS, rounded(low, high));
  }
}

// The transformer head of one layer, in which the left text's first token looks at all tokens of both.
// Of left texts: the first token with the bias of `attended`, first [m][wide]; its queries Q, columns [m / 16][heads][part / 32][16][16][2];
// its scores of its own text, own [m / 32][heads][left][32], -infinity where masked; values V [m][left][heads * part].
// Of right texts: keys K, rows [n * deep / 16][heads][part / 32][16][32], where deep is right up to 1, 2, 4, 8 or a multiple of 16, and n up
// to one of 32; mask [n][right], 0 or -infinity; values U [n][right][heads * part]. m is a multiple of 32.
template <class Way>
void transformer(const Layer& layer, const float* first, const uint16_t* Q, const float* own, const float* V, const uint16_t* K,
                 const float* mask, const float* U, int m, int n, int left, int right, int deep, float* out, long stride) {
  Way::begin();
  const int inner = layer.heads * layer.part, wide = layer.wide, ffn = layer.ffn, tile = layer.part * 16;
  // right texts whose keys are whole blocks of rows
  const int texts = deep < PAIRS ? PAIRS / deep : deep % PAIRS ? 2 : 1, rows = texts * deep;
  const auto scores = room<float>(layer.heads * rows * PAIRS), share = room<float>(layer.heads * (left + right) * PAIRS);
  const auto y = room<float>(PAIRS * wide), z = room<float>(PAIRS * wide);
  const auto x = room<uint16_t>(PAIRS * std::max(inner, wide)), hidden = room<uint16_t>(PAIRS * ffn);
  alignas(64) float raised[PAIRS][32];
  __m512 bump[5];
  for (int term = 0; term < 5; term++) bump[term] = _mm512_loadu_ps(layer.bump + 16 * term);
  for (int i = 0; i < m; i += PAIRS)
    for (int j = 0; j < n; j++) {
      if (j % texts == 0)
        for (int head = 0; head < layer.heads; head++)
          for (int r = 0; r < rows; r += PAIRS) {
            const uint16_t* keys = K + ((static_cast<long>(j) * deep + r) / 16 * layer.heads + head) * tile;
            const uint16_t* queries = Q + (i / 16L * layer.heads + head) * tile;
            const long next = static_cast<long>(layer.heads) * tile;
            float* c = &scores[(head * rows + r) * PAIRS];
            Way::multiply(keys, keys + next, 512, queries, queries + next, 512, layer.part / 32, c, PAIRS);
          }
      softmax(layer, own + static_cast<long>(i) * layer.heads * left, &scores[j % texts * deep * PAIRS], mask + static_cast<long>(j) * right,
              left, right, rows, share.get());
      for (int row = 0; row < PAIRS; row++)
        attend(layer, &share[row], V + (i + row) * static_cast<long>(left) * inner, U + static_cast<long>(j) * right * inner, left, right,
               &x[row * 32]);

      for (int at = 0; at < wide; at += 32) multiply<Way>(x.get(), layer.attended, at / 32, inner, wide, &y[at], wide);
      for (int row = 0; row < PAIRS; row++) {
        float *stream = &y[row * wide], *normed = &z[row * wide];
        const float* start = first + static_cast<long>(i + row) * wide;
        for (int at = 0; at < wide; at += 16) {
          const __m512 sum = _mm512_add_ps(_mm512_load_ps(stream + at), _mm512_loadu_ps(start + at));
          _mm512_store_ps(stream + at, sum);
          _mm512_store_ps(normed + at, sum);
        }
        const __m512 factor = centre(normed, layer.width, layer.epsilon);
        const auto of = [&](int at) {
          const __m512 unit = _mm512_mul_ps(_mm512_load_ps(normed + at), factor);
          return _mm512_fmadd_ps(unit, _mm512_loadu_ps(layer.norm_weight + at), _mm512_loadu_ps(layer.norm_bias + at));
        };
        for (int at = 0; at < wide; at += 32) _mm512_store_si512(&x[at * PAIRS + row * 32], rounded(of(at), of(at + 16)));
      }
      for (int at = 0; at < ffn; at += 32) {
        multiply<Way>(x.get(), layer.up, at / 32, wide, ffn, raised[0], 32);
        const __m512 low = _mm512_loadu_ps(layer.up_bias + at), high = _mm512_loadu_ps(layer.up_bias + at + 16);
        for (int row = 0; row < PAIRS; row++)
          _mm512_store_si512(&hidden[at * PAIRS + row * 32], rounded(gelu(_mm512_add_ps(_mm512_load_ps(raised[row]), low), bump),
                                                                     gelu(_mm512_add_ps(_mm512_load_ps(raised[row] + 16), high), bump)));
      }
      for (int at = 0; at < wide; at += 32) multiply<Way>(hidden.get(), layer.down, at / 32, ffn, wide, &z[at], wide);
      for (int row = 0; row < PAIRS; row++) {
        float *stream = &y[row * wide], *last = &z[row * wide];
        for (int at = 0; at < wide; at += 16) {
          const __m512 added = _mm512_add_ps(_mm512_load_ps(last + at), _mm512_loadu_ps(layer.down_bias + at));
          _mm512_store_ps(last + at, _mm512_add_ps(added, _mm512_load_ps(stream + at)));
        }
        const __m512 factor = centre(last, layer.width, layer.epsilon_leave);
        __m512 sum = _mm512_setzero_ps();
        for (int at = 0; at < wide; at += 16) sum = _mm512_fmadd_ps(_mm512_load_ps(last + at), _mm512_loadu_ps(layer.w + at), sum);
        out[(i + row) * stride + j] = layer.shift + _mm512_reduce_add_ps(_mm512_mul_ps(sum, factor));
      }
    }
  Way::end();
}
}  // namespace

extern "C" {

// Asks the kernel once for the right to use tiles; 0 if it was given.
int prepare_process() {
#ifdef __AMX_BF16__
  constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  return static_cast<int>(syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA));
#else
  return -1;
#endif
}

// W [outer][hidden] as bfloat16 bits, in the order in which columns are multiplied: [hidden / 32][outer / 16][16 pairs][16 columns][2].
void pack(const uint16_t* W, int hidden, int outer, uint16_t* packed) {
  for (int k = 0; k < hidden; k += 32)
    for (int g = 0; g < outer; g += 16)
      for (int row = 0; row < 16; row++)
        for (int column = 0; column < 16; column++)
          for (int half = 0; half < 2; half++) *packed++ = W[(g + column) * hidden + k + 2 * row + half];
}

// The heads by their way of multiplying: ffnn_vectors, ffnn_tiles ...
#define HEADS_BY(Way, way)                                            \
  void* ffnn_##way = reinterpret_cast<void*>(ffnn<Way>);              \
  void* compare_##way = reinterpret_cast<void*>(compare<Way>);        \
  void* maxsim_##way = reinterpret_cast<void*>(maxsim<Way>);          \
  void* transformer_##way = reinterpret_cast<void*>(transformer<Way>);
HEADS_BY(Vectors, vectors)
#ifdef __AMX_BF16__
HEADS_BY(Tiles, tiles)
#endif
}

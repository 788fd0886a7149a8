// AMX in software, so that what tiles.cpp does with tiles can be tested on any processor with AVX512_BF16: eight tiles of 16 rows of 64 bytes.
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define __AMX_BF16__ 1
#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) static_cast<void>(config)
#define _tile_release() static_cast<void>(0)
#define _tile_zero(tile) std::memset(TILES[tile], 0, sizeof TILES[tile])
#define _tile_loadd(tile, from, stride) copied(TILES[tile][0], 64, from, stride)
#define _tile_stored(tile, to, stride) copied(to, stride, TILES[tile][0], 64)
#define _tile_dpbf16ps(c, a, b) added(TILES[c], TILES[a], TILES[b])

inline thread_local unsigned char TILES[8][16][64];

inline void copied(void* to, long to_stride, const void* from, long from_stride) {
  for (int row = 0; row < 16; row++)
    std::memcpy(static_cast<char*>(to) + row * to_stride, static_cast<const char*>(from) + row * from_stride, 64);
}

inline float number(const unsigned char* two) {  // a bfloat16 is the upper half of a float
  const uint32_t bits = static_cast<uint32_t>(two[0] | two[1] << 8) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// c[row][column] += a[row][k][half] * b[k][column][half]
inline void added(unsigned char (*c)[64], const unsigned char (*a)[64], const unsigned char (*b)[64]) {
  for (int row = 0; row < 16; row++)
    for (int column = 0; column < 16; column++) {
      float sum;
      std::memcpy(&sum, c[row] + 4 * column, sizeof sum);
      for (int k = 0; k < 16; k++)
        for (int half = 0; half < 4; half += 2) sum += number(a[row] + 4 * k + half) * number(b[k] + 4 * column + half);
      std::memcpy(c[row] + 4 * column, &sum, sizeof sum);
    }
}

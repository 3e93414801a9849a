// The two half types and their scalar conversions, for one instruction set (XENT_ISA names its namespace, so that no
// function compiled with wide instructions can be merged with a narrower one of the same name by the linker).
#pragma once

#include <cstdint>
#include <cstring>

namespace xent::XENT_ISA {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

inline uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}

inline float float_of(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(bf16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

inline float widen(f16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  // Exponents move by the difference of the biases, 112; a product with 2^112 also makes subnormals right.
  return float_of(sign | bits_of(float_of(magnitude << 13) * 0x1p112f));
}

inline void narrow(float x, float* out) { *out = x; }
inline void narrow(double x, double* out) { *out = x; }

inline void narrow(float x, bf16* out) {  // to nearest, ties to even
  const uint32_t u = bits_of(x);
  out->bits = x != x ? 0x7fc0u : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

inline void narrow(float x, f16* out) {  // to nearest, ties to even
  const uint32_t u = bits_of(x);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    out->bits = static_cast<uint16_t>(sign | 0x7e00u);
  } else if (magnitude >= 0x477ff000u) {  // 65520 and more round to infinity
    out->bits = static_cast<uint16_t>(sign | 0x7c00u);
  } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 rounds to a multiple of 2^-24
    out->bits = static_cast<uint16_t>(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u));
  } else {
    const uint32_t odd = (magnitude >> 13) & 1u;
    out->bits = static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
  }
}

template <class To>
inline To narrowed(float x) {
  To out;
  narrow(x, &out);
  return out;
}

// Two vectors of adjacent numbers. Which lane holds which is the instruction set's choice, one for loads and stores.
template <class L>
struct Pair {
  typename L::reg first, second;
};

}  // namespace xent::XENT_ISA

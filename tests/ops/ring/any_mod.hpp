/// Masks and score mods behind one type each: what is called with them is compiled once for all that there are.
#pragma once

#include <heed/kernel/score.hpp>
#include <heed/mod/dual.hpp>
#include <heed/mod/position.hpp>
#include <heed/simd/arch.hpp>
#include <heed/simd/pack.hpp>

namespace ring_test {

using score_pack = heed::pack<double, heed::default_arch>;
using position_pack = heed::basic_position<heed::index_pack<double, heed::default_arch>>;
using seen_pack = heed::mask_pack<double, heed::default_arch>;

/// A mask of double scores, which must outlive this. It answers for pairs, vectors and tiles as the mask does.
class any_mask : public heed::mask_base {
 public:
  template <class Mask>
  explicit any_mask(const Mask& mask) : mask_(&mask), answers_(&answers_of<Mask>) {}

  bool operator()(const heed::position& at) const { return answers_->pair(mask_, at); }
  seen_pack operator()(const position_pack& at) const { return answers_->vector(mask_, at); }
  heed::tile_class classify(int b, int h, int q0, int q1, int k0, int k1) const {
    return answers_->tile(mask_, {b, h, q0, q1, k0, k1});
  }
  heed::key_range keys(int b, int h, int q0, int q1) const { return answers_->keys(mask_, {b, h, q0, q1, 0, 0}); }

 private:
  struct rectangle {
    int b, h, q0, q1, k0, k1;
  };
  struct answers {
    bool (*pair)(const void*, const heed::position&);
    seen_pack (*vector)(const void*, const position_pack&);
    heed::tile_class (*tile)(const void*, const rectangle&);
    heed::key_range (*keys)(const void*, const rectangle&);
  };
  template <class Mask>
  static const Mask& as(const void* mask) {
    return *static_cast<const Mask*>(mask);
  }
  template <class Mask>
  static constexpr answers answers_of{
      [](const void* m, const heed::position& at) -> bool { return as<Mask>(m)(at); },
      [](const void* m, const position_pack& at) {
        return heed::detail::visible<double, heed::default_arch>(as<Mask>(m), at);
      },
      [](const void* m, const rectangle& r) {
        return heed::detail::classify(as<Mask>(m), r.b, r.h, r.q0, r.q1, r.k0, r.k1);
      },
      [](const void* m, const rectangle& r) { return heed::detail::visible_keys(as<Mask>(m), r.b, r.h, r.q0, r.q1); }};

  const void* mask_;
  const answers* answers_;
};

/// A score mod of double scores, which must outlive this, and its derivative. It accumulates nothing.
class any_score {
 public:
  template <class Mod>
  explicit any_score(const Mod& mod) : mod_(&mod), answers_(&answers_of<Mod>) {}

  double operator()(double s, const heed::position& at) const { return answers_->number(mod_, s, at); }
  score_pack operator()(score_pack s, const position_pack& at) const { return answers_->vector(mod_, s, at); }
  heed::dual<double> operator()(heed::dual<double> s, const heed::position& at) const {
    return answers_->number_slope(mod_, s, at);
  }
  heed::dual<score_pack> operator()(const heed::dual<score_pack>& s, const position_pack& at) const {
    return answers_->vector_slope(mod_, s, at);
  }

 private:
  struct answers {
    double (*number)(const void*, double, const heed::position&);
    score_pack (*vector)(const void*, score_pack, const position_pack&);
    heed::dual<double> (*number_slope)(const void*, heed::dual<double>, const heed::position&);
    heed::dual<score_pack> (*vector_slope)(const void*, const heed::dual<score_pack>&, const position_pack&);
  };
  template <class Mod>
  static const Mod& as(const void* mod) {
    return *static_cast<const Mod*>(mod);
  }
  template <class Mod>
  static constexpr answers answers_of{
      [](const void* m, double s, const heed::position& at) -> double { return as<Mod>(m)(s, at); },
      [](const void* m, score_pack s, const position_pack& at) {
        return heed::detail::modified<double, heed::default_arch>(as<Mod>(m), s, at);
      },
      [](const void* m, heed::dual<double> s, const heed::position& at) -> heed::dual<double> {
        return as<Mod>(m)(s, at);
      },
      [](const void* m, const heed::dual<score_pack>& s, const position_pack& at) {
        return heed::detail::modified<double, heed::default_arch>(as<Mod>(m), s, at);
      }};

  const void* mod_;
  const answers* answers_;
};

}  // namespace ring_test

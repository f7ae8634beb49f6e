// What heed::eigen adds: the header, and Eigen behind it.
#include <heed/interop/eigen.hpp>

int main() { return Eigen::Vector3f::Ones().size() == 3 ? 0 : 1; }

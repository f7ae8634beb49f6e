// Catch2's runner, which knows nothing of MPI: translated once for all of them.
#include "mpi/session.hpp"

#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif

namespace mpi {

int run_session(int argc, char** argv) { return Catch::Session().run(argc, argv); }

}  // namespace mpi

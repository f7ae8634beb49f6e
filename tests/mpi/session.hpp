/// All cases of the program.
#pragma once

namespace mpi {

/// Returns how many failed.
int run_session(int argc, char** argv);

}  // namespace mpi

// The main function of tests that run under mpirun: every rank runs all cases, in one order. What they print is shown
// of rank 0, and of every rank that something went wrong on.
#include <heed/interop/mpi.hpp>

#include <cstdlib>
#include <iostream>
#include <sstream>

#include "mpi/session.hpp"

int main(int argc, char** argv) {
  int level = MPI_THREAD_SINGLE, rank = 0;
  // For the case that is about programs that do this.
  if (std::getenv("HEED_TEST_MPI_INIT") != nullptr)
    MPI_Init(&argc, &argv);
  else
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);

  std::ostringstream said;
  std::streambuf* const terminal = std::cout.rdbuf(said.rdbuf());
  const int failures = mpi::run_session(argc, argv);
  std::cout.rdbuf(terminal);
  if (rank == 0 || failures != 0) std::cout << "rank " << rank << ":\n" << said.str() << std::flush;

  MPI_Finalize();
  return failures != 0;
}

// The main function of tests that run under mpirun: every rank runs all cases, in one order. What they print is shown
// of rank 0, and of every rank that something went wrong on.
#include <heed/interop/mpi.hpp>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>

#include "mpi/session.hpp"

namespace {

/// Before MPI is initialised and after it is finalised.
bool is_refused() {
  try {
    heed::mpi_transport ranks(MPI_COMM_WORLD);
  } catch (const heed::invalid_argument& error) {
    return std::string(error.what()).find("expected one of an initialised MPI") != std::string::npos;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  int level = MPI_THREAD_SINGLE, rank = 0;
  bool refused = is_refused();
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

  // One that outlives MPI leaves it alone.
  std::unique_ptr<heed::mpi_transport> late;
  if (level != MPI_THREAD_SINGLE) late = std::make_unique<heed::mpi_transport>(MPI_COMM_WORLD);
  MPI_Finalize();
  late.reset();
  refused = refused && is_refused();
  if (!refused) std::cout << "rank " << rank << ": a transport without MPI was not refused" << std::endl;
  return failures != 0 || !refused;
}

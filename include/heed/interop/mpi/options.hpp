/// Options of the ranks of an MPI program.
#pragma once

#include <heed/config.hpp>
#include <heed/core/view.hpp>

HEED_BEGIN

/// What becomes of an MPI program of which one rank failed.
enum class mpi_failure {
  end_program,  // MPI_Abort, after what went wrong is printed
  rethrow       // the rank that failed goes on with its exception, all others get a transport_error
};

struct mpi_transport_options {
  mpi_failure on_failure = mpi_failure::end_program;
  double patience = 0;                     // seconds that a call waits for another rank before it throws; 0: forever
  index_t piece_bytes = index_t{1} << 30;  // longer messages travel in pieces, since MPI counts in int
};

HEED_END

// What heed::mpi adds: the header, and MPI behind it. Run without mpirun it is the only rank.
#include <heed/interop/mpi.hpp>

int main(int argc, char** argv) {
  int level = 0, size = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
  {
    heed::mpi_transport ranks(MPI_COMM_WORLD);
    size = ranks.size();
  }
  MPI_Finalize();
  return size == 1 ? 0 : 1;
}

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

# Nothing that is installed depends on the architecture, so all of it goes under the data directory.
set(heed_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/heed")

# One export set per component: a package file is only loaded when its component is asked for.
foreach(heed_set IN ITEMS heed heed_eigen heed_mpi heed_openmp)
  set(heed_file_set FILE_SET HEADERS)
  if(heed_set STREQUAL "heed_openmp")
    set(heed_file_set "")
  endif()
  # INCLUDES DESTINATION serves consumers older than CMake 3.23, which do not know file sets.
  install(TARGETS ${heed_set} EXPORT ${heed_set} ${heed_file_set} INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
  string(REPLACE "_" "-" heed_export_file "${heed_set}-targets.cmake")
  install(EXPORT ${heed_set} NAMESPACE heed:: DESTINATION "${heed_package_dir}" FILE "${heed_export_file}")
endforeach()

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/heed-config.cmake.in" heed-config.cmake
                              INSTALL_DESTINATION "${heed_package_dir}")
# Before 1.0 a minor version may break its users.
write_basic_package_version_file(heed-config-version.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(
  FILES "${CMAKE_CURRENT_BINARY_DIR}/heed-config.cmake" "${CMAKE_CURRENT_BINARY_DIR}/heed-config-version.cmake"
        "${CMAKE_CURRENT_LIST_DIR}/heed-xsimd.cmake"
  DESTINATION "${heed_package_dir}")

# The prefix is found from the place of the .pc file, so that an installed tree can be moved.
file(RELATIVE_PATH heed_pc_prefix "/prefix/${CMAKE_INSTALL_DATADIR}/pkgconfig" "/prefix")
configure_file("${CMAKE_CURRENT_LIST_DIR}/heed.pc.in" heed.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/heed.pc" DESTINATION "${CMAKE_INSTALL_DATADIR}/pkgconfig")

install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/licenses/heed")

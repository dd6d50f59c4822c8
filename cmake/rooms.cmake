# onset_room(NAME [DEPENDS rooms and libraries...] [PRIVATE libraries...] [TEST_ENVIRONMENT NAME=value...])
#
# One folder is one target: onset_NAME holds every .cc of the folder but its tests, fuzz targets and
# benchmarks; onset_NAME_test holds every *_test.cc; each X_fuzz.cc becomes the program onset_X_fuzz.

add_library(onset_options INTERFACE)
target_include_directories(onset_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(onset_options INTERFACE -Wall -Wextra -Werror)
# One rule for every file: a product and a sum are fused only where the source says so, so that a
# value does not depend on which compiler, loop or instruction set met it.
target_compile_options(onset_options INTERFACE -ffp-contract=off)
if(ONSET_SANITIZE)
  target_compile_options(onset_options INTERFACE -fsanitize=${ONSET_SANITIZE} -fno-omit-frame-pointer
                         -fno-sanitize-recover=all)
  target_link_options(onset_options INTERFACE -fsanitize=${ONSET_SANITIZE})
endif()
find_package(Threads REQUIRED)
if(ONSET_TESTS)
  enable_testing()
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()

function(onset_room name)
  cmake_parse_arguments(ROOM "" "" "DEPENDS;PRIVATE;TEST_ENVIRONMENT" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS *.cc)
  set(tests ${sources})
  set(fuzzers ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(FILTER fuzzers INCLUDE REGEX "_fuzz\\.cc$")
  list(FILTER sources EXCLUDE REGEX "_(test|fuzz|bench)\\.cc$")
  if(sources)
    add_library(onset_${name} STATIC ${sources})
    target_link_libraries(onset_${name} PUBLIC onset_options ${ROOM_DEPENDS} PRIVATE ${ROOM_PRIVATE} Threads::Threads)
  else()  # headers only
    add_library(onset_${name} INTERFACE)
    target_link_libraries(onset_${name} INTERFACE onset_options ${ROOM_DEPENDS})
  endif()
  if(ONSET_TESTS AND tests)
    add_executable(onset_${name}_test ${tests})
    target_link_libraries(onset_${name}_test PRIVATE onset_${name} ${ROOM_PRIVATE} GTest::gtest_main)
    target_compile_definitions(onset_${name}_test PRIVATE ONSET_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
    gtest_discover_tests(onset_${name}_test TEST_PREFIX ${name}. DISCOVERY_TIMEOUT 120
                         PROPERTIES TIMEOUT 600 LABELS ${name} ENVIRONMENT "${ROOM_TEST_ENVIRONMENT}")
  endif()
  if(ONSET_FUZZ)
    foreach(source ${fuzzers})
      get_filename_component(stem ${source} NAME_WE)
      add_executable(onset_${stem} ${source})
      target_link_libraries(onset_${stem} PRIVATE onset_${name} ${ROOM_PRIVATE} -fsanitize=fuzzer)
    endforeach()
  endif()
endfunction()

#include "../../examples/dispatch/attention.hpp"

#pragma once
unsigned long getauxval(unsigned long type);

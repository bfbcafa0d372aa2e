"""The parts that methods are built from. Nothing here is a method or imports one."""

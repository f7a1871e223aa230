"""Random histories of delivery for test_state_machine.py: who acts, and what goes wrong."""

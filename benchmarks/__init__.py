"""What a step costs, against the floor no method that adapts early layers can beat: `make bench`."""

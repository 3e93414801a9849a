"""A program, or one loss, under the rules of `checks`: what is captured, what a rule is given, what is reported."""

"""Lessons: texts from assets/texts/lessons, filled with numbers of the network at hand, and answers judged by them."""

"""Stage 6: what the built network does."""

from core.evaluate.compare import Comparison as Comparison
from core.evaluate.compare import compare_models as compare_models
from core.evaluate.metrics import evaluate_model as evaluate_model

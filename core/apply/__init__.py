"""Stage 5: build the smaller network a plan describes."""

from core.apply.batchnorm import reestimate_batchnorm as reestimate_batchnorm
from core.apply.finetune import FineTuned as FineTuned
from core.apply.finetune import finetune_model as finetune_model
from core.apply.reconstruct import reconstruct_model as reconstruct_model
from core.apply.repair import AS_CUT as AS_CUT
from core.apply.repair import build_network as build_network
from core.apply.repair import list_repairs as list_repairs
from core.apply.surgery import mask_model as mask_model
from core.apply.surgery import prune_model as prune_model

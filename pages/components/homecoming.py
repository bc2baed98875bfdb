"""Training elsewhere: what to run there, and where the result comes back."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from core import CoreError, Plan, Subject, take_back_upload
from pages.components import downloads, moves, session

TITLE = "Fine-tuned elsewhere"
STEPS = (
    "Take `finetune.py`, `model.py` and `model.safetensors` to a machine with PyTorch, best one with a GPU, and run:"
)
COMMAND = "python finetune.py --data images.npz --epochs 30    # or a folder with train/<class> and val/<class>"


def show(subject: Subject, plan: Plan, directory: Path, names: list[str], key: str) -> None:
    """The steps out, and the way home; nothing where the script was not written."""
    if "finetune.py" not in names:
        return
    with st.expander("Train it further on another machine", icon=":material/model_training:"):
        st.markdown(STEPS)
        st.code(COMMAND, language="bash", wrap_lines=True)
        st.caption(
            "It needs neither Prunescope nor its packages, goes on with --resume after an interruption, and keeps the "
            "weights that were best on images it holds out."
        )
        wanted = [name for name in ("finetune.py", "model.py", "model.safetensors") if name in names]
        downloads.together(directory, wanted, "Download the three", f"{key}-train")
        st.markdown("Then bring `finetuned.safetensors` back: it becomes the network of this plan.")
        file = st.file_uploader("Trained weights", type=["safetensors"], key=f"return-{plan.key}")
        if file is not None and st.button("Take it as this plan's network", icon=":material/home:", type="primary"):
            try:
                name = take_back_upload(file, file.name, session.owner(), subject, plan)
            except CoreError as error:
                st.error(str(error), icon=":material/error:")
                return
            moves.keep_network(plan, name, TITLE)
            session.notify_done("The trained network is the one of this plan now. Tune measures it, Export writes it.")
            st.rerun()

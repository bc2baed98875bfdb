// The plan's widths and the selected group, in a message of their own: the picture, which may be large, stays as it is.

const senders = new WeakMap();

export default function ({ data, parentElement }) {
  let sender = senders.get(parentElement);
  if (!sender) {
    sender = { data, tell: () => window.dispatchEvent(new CustomEvent("prunescope-widths", { detail: sender.data })) };
    senders.set(parentElement, sender);
    const answer = () => (parentElement.isConnected ? sender.tell() : window.removeEventListener("prunescope-widths-please", answer));
    window.addEventListener("prunescope-widths-please", answer);
  }
  sender.data = data;
  sender.tell();
}

import { useRef, useState } from 'preact/hooks';

import { useApp, useAppState } from '../context.js';
import { formatNumber, t } from '../i18n.js';
import { canSend } from '../state.js';

/** How unlikely, in five steps: a shade, and a line that grows. */
const STEPS = [0.9, 0.6, 0.3, 0.1];

/** @param {number} share */
function percent(share) {
  const written = formatNumber(Math.max(share, 0.001), { style: 'percent', maximumFractionDigits: share < 0.1 ? 1 : 0 });
  return share < 0.001 ? `< ${written}` : written;
}

/** @param {string} text what cannot be seen gets a name */
const visible = (text) => text.replaceAll('\n', '⏎').replaceAll('\t', '⇥').replace(/^ | $/g, '␣');

/**
 * A reply as its tokens, each with the likeliest others; choosing one branches there. The tokens are one stop of the Tab key:
 * arrow keys go from one to the next, and Tab goes on to the others that are shown.
 * @param {{ message: import('../tree.js').Message, probs: import('../tree.js').Probabilities }} props
 */
export function Tokens({ message, probs }) {
  const app = useApp();
  const ready = useAppState((state) => canSend(state.machine));
  const [at, setAt] = useState(0);
  const [open, setOpen] = useState(false);
  const place = useRef(/** @type {HTMLDivElement | null} */ (null));
  const { list } = probs;
  const token = list[at];
  const instead = token && t('tokens.instead', { token: visible(token[0]), share: percent(token[1]) });
  const focus = (/** @type {number} */ next) =>
    /** @type {HTMLElement | undefined} */ (place.current?.querySelectorAll('.token')[Math.max(0, Math.min(next, list.length - 1))])?.focus();
  /** @param {KeyboardEvent} event */
  const onKeyDown = (event) => {
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: list.length - 1 }[event.key];
    if (next !== undefined) {
      event.preventDefault();
      focus(next);
    } else if (event.key === 'Escape' && open) {
      event.stopPropagation();
      focus(at);
      setOpen(false);
    }
  };
  return (
    <div ref={place} onKeyDown={onKeyDown}>
      <div class="text tokens" dir="auto" role="group" aria-label={t('tokens.label')}>
        {message.content.slice(0, probs.from)}
        {list.map(([text, share], index) => (
          <button
            key={index}
            type="button"
            class={`token p${STEPS.filter((step) => share < step).length}`}
            title={percent(share)}
            tabIndex={index === at ? 0 : -1}
            aria-expanded={open && index === at}
            onFocus={() => {
              setAt(index);
              setOpen(true);
            }}
            // Browsers that give a clicked button no focus.
            onClick={(event) => event.currentTarget.focus()}
          >
            {text}
          </button>
        ))}
      </div>
      {open && token && (
        <div class="likely" role="group" aria-label={instead}>
          <p class="help">{instead}</p>
          <ul>
            {token[2].map((other) => (
              <li key={other[0]}>
                <button
                  type="button"
                  class="small"
                  // What is half a character, a marker, or taken already is no way to go on.
                  disabled={!ready || other[0] === token[0] || /\ufffd|^<\w+>$/.test(other[0]) || other[0] === ''}
                  onClick={() => void app.replies.branchAtToken(message.id, at, other)}
                >
                  <code>{visible(other[0])}</code> {percent(other[1])}
                </button>
              </li>
            ))}
          </ul>
        </div>
      )}
    </div>
  );
}

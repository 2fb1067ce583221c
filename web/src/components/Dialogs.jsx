import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';

import { copy } from '../clipboard.js';
import { useApp, useAppState, useUi, useUiState } from '../context.js';
import { formatNumber, formatTime, t } from '../i18n.js';
import { NARROW } from '../ui.js';
import { Check } from './fields.jsx';
import { IconButton } from './icons.jsx';
import { leftOut } from './Message.jsx';
import { Settings } from './Settings.jsx';
import { Toasts } from './Toasts.jsx';

/** What is open on top of the page: one thing at a time. */
export function Dialogs() {
  const dialog = useUiState((ui) => ui.dialog);
  switch (dialog?.name) {
    case 'settings':
      return <Settings field={dialog.field} />;
    case 'prompt':
      return <ExactPrompt id={dialog.id} />;
    case 'info':
      return <Info id={dialog.id} />;
    case 'model':
      return <Model />;
    case 'help':
      return <Help />;
    case 'about':
      return <About />;
    case 'confirm':
      return <Confirm dialog={dialog} />;
    default:
      return null;
  }
}

/**
 * A modal dialog; the browser keeps the focus inside and gives it back when it closes.
 * @param {{ title: string, children: import('preact').ComponentChildren, class?: string, role?: 'alertdialog' }} props
 */
export function Dialog({ title, children, class: extra = '', role }) {
  const ui = useUi();
  const element = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const pressed = useRef(/** @type {EventTarget | null} */ (null));
  useLayoutEffect(() => {
    const dialog = element.current;
    const opener = /** @type {HTMLElement | null} */ (document.activeElement);
    dialog?.showModal();
    return () => {
      dialog?.close();
      // Where it was opened may be gone, or in a drawer that has closed.
      for (const place of [opener, ...['menu', 'message'].map((id) => document.getElementById(id))]) {
        const { activeElement: focused, body } = document;
        const gone = dialog?.contains(focused) || (focused?.closest('.list') && matchMedia(NARROW).matches);
        if (focused && focused !== body && !gone) break;
        place?.focus();
      }
    };
  }, []);
  return (
    <dialog
      class={`dialog ${extra}`}
      aria-labelledby="dialog-title"
      role={role}
      ref={element}
      onCancel={(event) => {
        event.preventDefault();
        ui.closeDialog();
      }}
      // Only what begins and ends beside it: a selection may be dragged beyond its edge.
      onPointerDown={(event) => (pressed.current = event.target)}
      onClick={(event) => event.target === element.current && pressed.current === element.current && ui.closeDialog()}
    >
      <div class="dialog-box">
        <div class="dialog-head">
          <h2 id="dialog-title">{title}</h2>
          <IconButton icon="close" label={t('dialog.close')} onClick={() => ui.closeDialog()} />
        </div>
        {children}
      </div>
      <Toasts live />
    </dialog>
  );
}

/**
 * What the model would read if the draft were sent now, or what leads to a reply.
 * @param {{ id?: string }} props
 */
function ExactPrompt({ id }) {
  const app = useApp();
  // Whatever it is made from may still change: a draft that is being restored, a reply that ends, another tab.
  useAppState((state) => state.tree);
  useAppState((state) => state.conversation);
  useAppState((state) => state.draft);
  useAppState((state) => state.files);
  useAppState((state) => state.defaults);
  const [shown, setShown] = useState({ of: '', problem: '', result: /** @type {Awaited<ReturnType<typeof app.api.applyTemplate>> | null} */ (null) });
  const [ids, setIds] = useState(false);
  const reply = id === undefined ? undefined : app.state.tree.get(id);
  const { text, literal } = app.state.conversation;
  const request = reply ? app.prompts.requestOf(reply) : app.prompts.request(app.prompts.sent(app.messages.path, true), true);
  const empty = text === undefined ? request.messages.length === 0 : text === '';
  const wanted = JSON.stringify(text === undefined ? request : [text, literal]);
  useEffect(() => {
    if (empty) return undefined;
    const abort = new AbortController();
    const asked =
      text === undefined
        ? app.api.applyTemplate({ ...request, with_pieces: true }, abort.signal)
        : app.api.rawPrompt(text, !literal, abort.signal);
    asked
      .then((result) => setShown({ of: wanted, problem: '', result }))
      .catch((error) => abort.signal.aborted || setShown({ of: wanted, problem: error.message, result: null }));
    return () => abort.abort();
  }, [wanted]);
  // Never that of a moment ago.
  const { problem, result } = shown.of === wanted && !empty ? shown : { problem: '', result: null };
  return (
    <Dialog title={t('prompt.title')} class="wide">
      <p class="help">{t('prompt.explain')}</p>
      {reply && !reply.asked && <p class="note">{t('prompt.unknown')}</p>}
      {empty && <p>{t('prompt.empty')}</p>}
      {problem !== '' && <p role="alert">{t('prompt.failed', { reason: problem })}</p>}
      {!empty && problem === '' && !result && <p class="help">{t('prompt.asked')}</p>}
      {result && (
        <>
          <pre class="prompt" tabIndex={0} dir="auto">
            {result.pieces.length === 0 ? result.prompt : result.pieces.map((piece, at) => <Piece key={at} piece={piece} withId={ids} />)}
          </pre>
          {result.pieces.length > 0 && <Check label={t('prompt.ids')} checked={ids} onChange={setIds} />}
          <div class="dialog-row">
            <span class="help" id="prompt-tokens">
              {t('prompt.tokens', { count: result.tokens })}
            </span>
            <button
              type="button"
              onClick={async () => app.notify((await copy(result.prompt)) ? 'toast.copied' : 'toast.copyFailed')}
            >
              {t('prompt.copy')}
            </button>
          </div>
        </>
      )}
    </Dialog>
  );
}

/** A token of the prompt. @param {{ piece: import('../api.js').Piece, withId: boolean }} props */
function Piece({ piece: { id, piece, control }, withId }) {
  const text = control ? <b class="control">{piece}</b> : piece;
  // A line break stays one, after the number that belongs to it.
  const [, line, end] = control ? [] : (/^([^]*?)(\n*)$/.exec(piece) ?? []);
  if (!withId) return control ? <span>{text}</span> : <>{text}</>;
  return (
    <>
      <span class="piece">
        {control ? text : line || '⏎'}
        <small>{id}</small>
      </span>
      {end}
    </>
  );
}

/** @param {{ rows: [string, string | number | null | undefined][] }} props */
function Facts({ rows }) {
  return (
    <dl class="facts">
      {rows
        .filter(([, value]) => value !== null && value !== undefined && value !== '')
        .map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd dir="auto">{value}</dd>
          </div>
        ))}
    </dl>
  );
}

/** @param {{ id: string }} props */
function Info({ id }) {
  const ui = useUi();
  const message = useAppState((state) => state.tree.get(id));
  if (!message) return null;
  const { timings = {}, params = {} } = message;
  const speed = (/** @type {number | undefined} */ value) =>
    value === undefined ? null : t('composer.speed', { speed: formatNumber(value, { maximumFractionDigits: 1 }) });
  const { seed, ...others } = params;
  const list = Object.entries(others)
    .map(([name, value]) => `${name} ${typeof value === 'object' ? JSON.stringify(value) : value}`)
    .join(' · ');
  const cached = timings.cache_n ?? 0;
  return (
    <Dialog title={t('info.title')}>
      <Facts
        rows={[
          [t('info.model'), message.demo ? `${message.model} (${t('message.demo')})` : message.model],
          [t('info.time'), formatTime(message.time)],
          [
            t('info.promptTokens'),
            message.promptTokens === undefined
              ? null
              : t(cached > 0 ? 'info.cached' : 'info.tokens', { count: message.promptTokens, cached }),
          ],
          [t('info.leftOut'), leftOut(message)],
          [t('info.replyTokens'), message.replyTokens === undefined ? null : t('info.tokens', { count: message.replyTokens })],
          [t('info.prefill'), speed(timings.prompt_per_second)],
          [t('info.decode'), speed(timings.predicted_per_second)],
          [
            t('info.first'),
            timings.first_ms === undefined
              ? null
              : t('info.seconds', { value: formatNumber(timings.first_ms / 1000, { maximumFractionDigits: 2 }) }),
          ],
          [t('info.seed'), seed === undefined ? null : String(seed)],
          [t('info.parameters'), list],
        ]}
      />
      <div class="dialog-row">
        <button type="button" onClick={() => ui.open({ name: 'prompt', id })}>
          {t('settings.exactPrompt')}
        </button>
      </div>
    </Dialog>
  );
}

function Model() {
  const props = useAppState((state) => state.props);
  if (!props) return null;
  const compact = (/** @type {number} */ value, /** @type {Intl.NumberFormatOptions} */ options) =>
    formatNumber(value, { maximumFractionDigits: 2, ...options });
  return (
    <Dialog title={t('model.title')}>
      <Facts
        rows={[
          [t('model.name'), props.name],
          [t('model.quant'), props.quant],
          [t('model.parameters'), props.parameters && compact(props.parameters, { notation: 'compact' })],
          [
            t('model.size'),
            props.bytes &&
              (props.bytes >= 1e9
                ? compact(props.bytes / 1e9, { style: 'unit', unit: 'gigabyte' })
                : compact(props.bytes / 1e6, { style: 'unit', unit: 'megabyte' })),
          ],
          [t('model.context'), t('model.contextOf', { used: props.nCtx, max: props.nCtxMax })],
          [t('model.file'), props.path],
          [t('model.version'), props.version],
        ]}
      />
    </Dialog>
  );
}

function Help() {
  const sendWith = useAppState((state) => state.preferences.sendWith);
  const control = /Mac|iPhone|iPad/.test(navigator.platform) ? '⌘' : 'Ctrl';
  /** @type {[string[], string][]} */
  const keys = [
    [sendWith === 'enter' ? ['Enter'] : ['Ctrl', 'Enter'], t('help.send')],
    [sendWith === 'enter' ? ['Shift', 'Enter'] : ['Enter'], t('help.newline')],
    [['Esc'], t('help.stop')],
    [['↑'], t('help.editLast')],
    [[control, 'K'], t('help.search')],
    [[control, 'Shift', 'O'], t('help.newChat')],
    [[control, 'B'], t('help.list')],
    [[control, 'Shift', 'Enter'], t('help.regenerate')],
    [['Alt', '↑ ↓'], t('help.move')],
    [[control, '/'], t('help.help')],
  ];
  return (
    <Dialog title={t('help.title')}>
      <dl class="keys">
        {keys.map(([combination, text]) => (
          <div key={text}>
            <dt>
              {combination.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dt>
            <dd>{text}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}

function About() {
  const props = useAppState((state) => state.props);
  return (
    <Dialog title={t('about.title')}>
      <p>{t('about.text')}</p>
      {props && <p class="help">{t('about.version', { version: props.version })}</p>}
      <p>
        <a href="/THIRD-PARTY.txt" target="_blank" rel="noopener">
          {t('about.notices')}
        </a>
      </p>
    </Dialog>
  );
}

/** @param {{ dialog: Extract<import('../ui.js').Dialog, { name: 'confirm' }> }} props */
function Confirm({ dialog }) {
  const ui = useUi();
  return (
    <Dialog title={dialog.title} role="alertdialog">
      <p>{dialog.text}</p>
      <div class="dialog-row end">
        <button type="button" onClick={() => ui.closeDialog()}>
          {t('dialog.cancel')}
        </button>
        <button
          type="button"
          class="danger primary"
          onClick={() => {
            ui.closeDialog();
            // After the dialog has given the focus back, so that the action can place it.
            setTimeout(dialog.act);
          }}
        >
          {dialog.yes}
        </button>
      </div>
    </Dialog>
  );
}

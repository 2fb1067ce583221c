import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';

import { copy } from '../clipboard.js';
import { useApp, useAppState, useUi, useUiState } from '../context.js';
import { grow } from '../grow.js';
import { formatNumber, t } from '../i18n.js';
import { whenNear } from '../near.js';
import { busy, canSend } from '../state.js';
import { Gem, Icon, IconButton } from './icons.jsx';
import { Failure, FullContext } from './Failure.jsx';
import { Menu } from './Menu.jsx';
import { RichText } from './RichText.jsx';
import { Tokens } from './Tokens.jsx';

/**
 * @typedef {object} MessageProps
 * @property {import('../tree.js').Message} message
 * @property {number} number its place in the chat, from 1
 * @property {boolean} last
 * @property {boolean} eager shown in full at once
 * @property {boolean} sent part of what the model reads
 * @property {import('../tree.js').Message[]} siblings
 */

/**
 * One message. Until it comes near the view it is an article with plain text and follows nothing, so that a chat of thousands
 * opens at once and stays searchable.
 * @param {MessageProps} props
 */
export function Message(props) {
  const { message, number, eager, sent } = props;
  const [near, setNear] = useState(eager);
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => (near || !place.current ? undefined : whenNear(place.current, () => setNear(true))), [near]);
  return (
    <article
      id={`m-${message.id}`}
      class={`message ${message.role} ${sent ? '' : 'left-out'}`}
      aria-label={t('role.message', { role: t(`role.${message.role}`), number })}
      tabIndex={-1}
      ref={place}
    >
      {near ? (
        <Content {...props} />
      ) : (
        <div class="text" dir="auto">
          {message.content}
        </div>
      )}
    </article>
  );
}

/** @param {MessageProps} props */
function Content({ message, last, sent, siblings }) {
  const live = useAppState((state) => state.live?.id === message.id);
  const editing = useUiState((ui) => ui.editing === message.id);
  const renderUser = useAppState((state) => state.preferences.renderUser);
  const [tokens, setTokens] = useState(false);
  const { role, probs } = message;
  return (
    <>
      {role === 'assistant' && (
        <p class="who" aria-hidden="true">
          <Gem />
          {t('role.assistant')}
          {message.demo && <span class="badge">{t('message.demo')}</span>}
        </p>
      )}
      {editing ? (
        <Editor message={message} />
      ) : (
        <>
          {message.files && <Files files={message.files} />}
          {probs && tokens && !live ? (
            <Tokens message={message} probs={probs} />
          ) : role === 'assistant' || renderUser ? (
            <RichText id={message.id} text={message.content} live={live} />
          ) : (
            message.content !== '' && (
              <div class="text plain" dir="auto">
                {message.content}
              </div>
            )
          )}
          {live && <Waiting />}
          <Tags message={message} sent={sent} live={live} />
          {!live && !(message.status === 'error' && message.content === '' && last) && (
            <Actions message={message} last={last} siblings={siblings} tokens={tokens} setTokens={setTokens} />
          )}
        </>
      )}
      {!live && last && message.failure && message.failure.kind !== 'context' && (
        <Failure message={message} failure={message.failure} />
      )}
      {!live && last && (message.failure?.kind === 'context' || message.cutBy === 'context_full') && (
        <FullContext message={message} />
      )}
    </>
  );
}

/** @param {{ files: import('../tree.js').Attachment[] }} props */
function Files({ files }) {
  return (
    <ul class="files">
      {files.map((file, at) => (
        <li key={at}>
          <details class="file">
            <summary>
              <Icon name="clip" />
              <span dir="auto">{file.name}</span>
            </summary>
            <pre dir="auto" tabIndex={0}>{file.text}</pre>
          </details>
        </li>
      ))}
    </ul>
  );
}

/** What happens before the first token, and how fast it goes after. */
function Waiting() {
  const prefill = useAppState((state) => state.machine.prefill);
  const reading = useAppState((state) => state.machine.phase === 'prefill');
  const [patient, setPatient] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setPatient(true), 300);
    return () => clearTimeout(timer);
  }, []);
  if (!reading) return <Speedometer />;
  if (!patient) return <p class="waiting" />;
  return (
    <div class="waiting">
      <span>
        {prefill ? t('composer.prefill', { done: prefill.done, total: prefill.total }) : t('composer.thinking')}
      </span>
      <progress
        max={prefill?.total ?? 1}
        value={prefill ? prefill.done : undefined}
        aria-label={t('composer.thinking')}
      />
    </div>
  );
}

function Speedometer() {
  const app = useApp();
  const shown = useAppState((state) => state.preferences.showSpeed);
  const place = useRef(/** @type {HTMLParagraphElement | null} */ (null));
  useEffect(() => {
    let last = 0;
    const listen = (/** @type {import('../app.js').Live} */ live) => {
      const now = performance.now();
      if (!place.current || live.speed === null || now - last < 250) return;
      last = now;
      place.current.textContent = t('composer.speed', { speed: formatSpeed(live.speed) });
    };
    app.streamListeners.add(listen);
    return () => void app.streamListeners.delete(listen);
  }, [app]);
  return shown ? <p class="speed" ref={place} /> : null;
}

/** @param {number} speed */
const formatSpeed = (speed) => formatNumber(speed, { maximumFractionDigits: speed < 100 ? 1 : 0, minimumFractionDigits: speed < 100 ? 1 : 0 });

/** @param {{ message: import('../tree.js').Message, sent: boolean, live: boolean }} props */
function Tags({ message, sent, live }) {
  const showSpeed = useAppState((state) => state.preferences.showSpeed);
  const tags = [];
  if (!sent) tags.push(t('message.notSent'));
  if (!live && message.status === 'stopped') tags.push(t('message.stopped'));
  if (message.cutBy === 'token_limit') tags.push(t('message.cutTokens'));
  if (message.cutBy === 'context_full') tags.push(t('message.cutContext'));
  const unread = leftOut(message);
  if (unread) tags.push(unread);
  if (message.edited) tags.push(t('message.edited'));
  const speed = message.timings?.predicted_per_second;
  if (tags.length === 0 && (!showSpeed || live || speed === undefined)) return null;
  return (
    <p class="tags">
      {tags.map((tag) => (
        <span key={tag} class="tag">
          {tag}
        </span>
      ))}
      {showSpeed && !live && speed !== undefined && (
        <span class="speed">{t('composer.speed', { speed: formatSpeed(speed) })}</span>
      )}
    </p>
  );
}

/**
 * What the server did not let the model read.
 * @param {import('../tree.js').Message} message
 * @returns {string | null}
 */
export function leftOut({ truncated, dropped = 0 }) {
  if (dropped > 0) return t('message.dropped', { count: dropped });
  return truncated ? t('message.truncated') : null;
}

/** @param {{ message: import('../tree.js').Message, last: boolean, siblings: import('../tree.js').Message[],
 *   tokens: boolean, setTokens: (tokens: boolean) => void }} props */
function Actions({ message, last, siblings, tokens, setTokens }) {
  const app = useApp();
  const ui = useUi();
  const ready = useAppState((state) => canSend(state.machine));
  const running = useAppState((state) => busy(state.machine));
  const { id, role } = message;
  const at = siblings.findIndex((other) => other.id === id);
  const temperature = Number(message.params?.temperature ?? app.settings.temperature);
  const hotter = Math.min(2, Math.round((temperature + 0.3) * 100) / 100);
  const colder = Math.max(0, Math.round((temperature - 0.3) * 100) / 100);

  const remove = () => {
    const count = app.messages.countBelow(id);
    ui.open({
      name: 'confirm',
      title: t('delete.title'),
      text: t(siblings.length > 1 ? 'delete.alternative' : 'delete.question', { count }),
      yes: t('delete.yes'),
      act: () => {
        const index = app.messages.path.findIndex((other) => other.id === id);
        void app.messages.remove(id);
        requestAnimationFrame(() => {
          const near = app.messages.path[index] ?? app.messages.path[index - 1];
          (document.getElementById(near ? `m-${near.id}` : 'message') ?? document.getElementById('message'))?.focus();
        });
      },
    });
  };

  /** @type {{ icon: string, label: string, act: () => void, danger?: boolean }[]} */
  const more = [];
  // One that still grows in another tab is that tab's.
  const unfinished = message.status !== 'complete' && message.status !== 'streaming';
  if (role === 'assistant' && ready) {
    if (last && !unfinished) {
      more.push({ icon: 'play', label: t('message.continue'), act: () => void app.replies.goOn(id) });
    }
    more.push(
      { icon: 'redo', label: t('message.sameSeed'), act: () => void app.replies.regenerate(id, { seed: Number(message.params?.seed ?? 0) }) },
      { icon: 'redo', label: t('message.hotter', { value: hotter }), act: () => void app.replies.regenerate(id, { temperature: hotter }) },
      { icon: 'redo', label: t('message.colder', { value: colder }), act: () => void app.replies.regenerate(id, { temperature: colder }) },
    );
  }
  more.push({ icon: 'branch', label: t('message.branch'), act: () => void app.messages.branchToNewChat(id) });
  if (message.probs) {
    more.push({ icon: 'text', label: t(tokens ? 'tokens.hide' : 'tokens.show'), act: () => setTokens(!tokens) });
  }
  if (role === 'assistant') more.push({ icon: 'info', label: t('message.info'), act: () => ui.open({ name: 'info', id }) });
  if (!running) more.push({ icon: 'trash', label: t('message.delete'), act: remove, danger: true });

  return (
    <div class={`actions ${last ? 'last' : ''}`}>
      {siblings.length > 1 && (
        <span class="alternatives">
          <IconButton
            icon="left"
            label={t('message.previous')}
            disabled={at === 0}
            onClick={() => switchTo(siblings[at - 1]?.id)}
          />
          <span>{t('message.alternative', { position: at + 1, count: siblings.length })}</span>
          <IconButton
            icon="right"
            label={t('message.next')}
            disabled={at === siblings.length - 1}
            onClick={() => switchTo(siblings[at + 1]?.id)}
          />
        </span>
      )}
      <IconButton
        icon="copy"
        label={t('message.copy')}
        onClick={async () => app.notify((await copy(message.content)) ? 'toast.copied' : 'toast.copyFailed')}
      />
      <IconButton icon="edit" label={t('message.edit')} onClick={() => ui.set({ editing: id })} disabled={running} />
      {role === 'assistant' && (
        <IconButton icon="redo" label={t('message.regenerate')} onClick={() => void app.replies.regenerate(id)} disabled={!ready} />
      )}
      {role === 'assistant' && last && unfinished && (message.content !== '' || message.status === 'stopped') && (
        <button type="button" class="small" onClick={() => void app.replies.goOn(id)} disabled={!ready}>
          <Icon name="play" />
          {t('message.continue')}
        </button>
      )}
      {role === 'user' && last && ready && (
        <button type="button" class="small" onClick={() => void app.replies.retry(id)}>
          <Icon name="play" />
          {t('message.reply')}
        </button>
      )}
      <Menu label={t('message.more')} items={more} />
    </div>
  );

  /** @param {string | undefined} target the same arrow keeps the focus, on the alternative's own buttons */
  function switchTo(target) {
    if (!target) return;
    const name = document.activeElement?.getAttribute('aria-label');
    app.messages.show(target);
    requestAnimationFrame(() => {
      // Not by a selector: an imported message has whatever id its file says.
      const shown = document.getElementById(`m-${target}`);
      const buttons = /** @type {HTMLButtonElement[]} */ ([...(shown?.querySelectorAll('.alternatives button:not(:disabled)') ?? [])]);
      (buttons.find((button) => button.getAttribute('aria-label') === name) ?? buttons[0])?.focus();
    });
  }
}

/** @param {{ message: import('../tree.js').Message }} props */
function Editor({ message }) {
  const app = useApp();
  const ui = useUi();
  const ready = useAppState((state) => canSend(state.machine));
  const [text, setText] = useState(message.content);
  const field = useRef(/** @type {HTMLTextAreaElement | null} */ (null));
  // Before the next key: what is typed at once belongs here.
  useLayoutEffect(() => {
    const area = field.current;
    if (!area) return;
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }, []);
  useEffect(() => {
    grow(field.current);
  }, [text]);
  const done = () => {
    ui.set({ editing: null });
    requestAnimationFrame(() => document.getElementById('message')?.focus());
  };
  const mine = message.role === 'user';
  const main = () => {
    done();
    if (mine) void app.replies.editAndSend(message.id, text);
    else {
      app.messages.editInPlace(message.id, text);
      void app.replies.goOn(message.id);
    }
  };
  const saveOnly = () => {
    app.messages.editInPlace(message.id, text);
    done();
  };
  return (
    <form
      class="editor"
      onSubmit={(event) => {
        event.preventDefault();
        main();
      }}
    >
      <textarea
        ref={field}
        dir="auto"
        aria-label={t('message.editLabel')}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.isComposing || event.keyCode === 229) return;
          if (event.key === 'Escape') {
            event.stopPropagation();
            done();
          }
          if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && ready) {
            event.preventDefault();
            main();
          }
        }}
      />
      <div class="editor-row">
        <button type="button" onClick={done}>
          {t('message.cancel')}
        </button>
        <button type="button" onClick={saveOnly}>
          {t('message.saveOnly')}
        </button>
        <button type="submit" class="primary" disabled={!ready || (mine && text.trim() === '')}>
          {t(mine ? 'message.save' : 'message.saveContinue')}
        </button>
      </div>
    </form>
  );
}

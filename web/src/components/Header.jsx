import { useRef, useState } from 'preact/hooks';

import { useApp, useAppState, useUi, useUiState } from '../context.js';
import { t } from '../i18n.js';
import { Icon, IconButton } from './icons.jsx';

const THEMES = /** @type {const} */ (['auto', 'light', 'dark']);
const THEME_ICONS = { auto: 'auto', light: 'sun', dark: 'moon' };

export function Header() {
  const app = useApp();
  const ui = useUi();
  const theme = useUiState((state) => state.theme);
  const list = useUiState((state) => state.list);
  const following = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  return (
    <header class="header">
      <IconButton icon="menu" id="menu" label={t('header.menu')} onClick={() => ui.toggleList()} />
      {!list && <IconButton icon="plus" label={t('header.newChat')} onClick={() => app.chats.create()} class="wide-only" />}
      <Title />
      <ModelChip />
      <div class="header-end">
        <IconButton
          icon={THEME_ICONS[theme]}
          label={t('header.theme', { theme: t(`theme.${theme}`) })}
          onClick={() => ui.changeTheme(following)}
          class="wide-only"
        />
        <IconButton icon="settings" id="settings" label={t('header.settings')} onClick={() => ui.open({ name: 'settings' })} />
        <IconButton icon="plus" label={t('header.newChat')} onClick={() => app.chats.create()} class="narrow-only" />
      </div>
    </header>
  );
}

/** The title; a click makes it a field. */
function Title() {
  const app = useApp();
  const conversation = useAppState((state) => state.conversation);
  const stored = useAppState((state) => state.conversations.some((other) => other.id === state.conversation.id));
  const [editing, setEditing] = useState(false);
  const button = useRef(/** @type {HTMLButtonElement | null} */ (null));
  const title = conversation.title || t('header.untitled');
  if (!stored) return <h1 class="title">{title}</h1>;
  if (!editing) {
    return (
      <h1 class="title">
        <button ref={button} type="button" dir="auto" title={t('header.rename')} onClick={() => setEditing(true)}>
          {title}
        </button>
      </h1>
    );
  }
  /** @param {string | null} value */
  const finish = (value) => {
    if (value !== null) app.chats.rename(conversation.id, value);
    setEditing(false);
    requestAnimationFrame(() => button.current?.focus());
  };
  return (
    <h1 class="title">
      <input
        class="title-field"
        dir="auto"
        aria-label={t('list.titleField')}
        defaultValue={conversation.title}
        ref={(field) => field?.select()}
        onBlur={(event) => {
          app.chats.rename(conversation.id, event.currentTarget.value);
          setEditing(false);
        }}
        onKeyDown={(event) => {
          if (event.isComposing) return;
          if (event.key === 'Enter') finish(event.currentTarget.value);
          if (event.key === 'Escape') {
            event.stopPropagation();
            finish(null);
          }
        }}
      />
    </h1>
  );
}

function ModelChip() {
  const ui = useUi();
  const props = useAppState((state) => state.props);
  if (!props) return null;
  const parts = [props.name, props.quant].filter((part) => part !== '');
  return (
    <button type="button" class="chip" title={t('header.model')} onClick={() => ui.open({ name: 'model' })}>
      <span class="chip-name">
        {parts.join(' · ')}
        <span class="wide-only"> · {t('header.context', { count: props.nCtx })}</span>
      </span>
      {props.demo && <span class="badge">{t('message.demo')}</span>}
      <Icon name="info" />
    </button>
  );
}

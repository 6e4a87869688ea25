export default function Home() {
  return (
    <>
      <script src="/_dub/script.js" defer />
      <form method="post" action="/api/signup">
        <input name="name" placeholder="Name" required />
        <input name="email" type="email" placeholder="E-mail" required />
        <button>Sign up</button>
      </form>
    </>
  );
}
